"""pytest-benchmark suites, one file per question."""
