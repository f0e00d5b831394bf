"""Check standards: recordings of known parts, judged again. A change of code that moves a verdict shows here.

Where a change is meant to move one, say in the commit why, and renew check_standards.toml:
    python tests/test_check_standards.py > tests/check_standards.toml
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from gpuassay import verify

HERE = Path(__file__).parent
RECORDINGS = sorted((HERE.parent / "results" / "reference").glob("*.jsonl"))
SHEETS = ("H100-SXM", "H200-SXM", "H20", "H800-SXM")


def judged(path: Path, sheet: str) -> dict[str, Any]:
    """What is kept of a judgement: words, and the ratio and U of each comparison to 4 digits."""
    judgement = verify.judge_record(path, sheet)
    rows = {}
    for v in judgement.verdicts:
        rows[v.metric] = {"verdict": v.verdict, "delivered": v.delivered_verdict}
        if v.capability:
            rows[v.metric] |= {
                "ratio": float(f"{v.capability.ratio:.4g}"),
                "U": float(f"{v.capability.expanded_uncertainty:.4g}"),
            }
    return {"overall": judgement.overall, "delivered": judgement.overall_delivered, "metric": rows}


def kept() -> dict[str, Any]:
    """check_standards.toml."""
    return tomllib.loads((HERE / "check_standards.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("sheet", SHEETS)
@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_known_parts_are_judged_as_before(path: Path, sheet: str) -> None:
    assert judged(path, sheet) == kept()[path.stem][sheet]


def test_nothing_is_kept_of_recordings_that_are_gone() -> None:
    assert set(kept()) == {path.stem for path in RECORDINGS}


if __name__ == "__main__":
    print(tomli_w.dumps({path.stem: {sheet: judged(path, sheet) for sheet in SHEETS} for path in RECORDINGS}), end="")
