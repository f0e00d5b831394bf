"""Exit codes of every command."""

CONFORMS, DIFFERS, USAGE, INCONCLUSIVE, NO_GPU = range(5)
