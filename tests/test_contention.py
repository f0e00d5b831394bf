"""Somebody else's process during a run: its rounds are left out, or the metric is in doubt; never averaged away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rewriting import lines_of, rewrite

import gpuassay
from gpuassay import contention, verify

Measure = Callable[..., Path]


def frames(sightings: list[int], samples_s: list[float], **extra: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Forty rounds of 0.1 s from 0 s on, and the telemetry."""
    starts = np.arange(40) * 0.1
    rounds = pd.DataFrame(
        {"metric": "tensor.bf16", "toolchain": "cuda c++", "start_host_s": starts, "host_s": 0.1, "event_s": 0.1}
    )
    return rounds, pd.DataFrame({"host_s": samples_s, "other_processes": sightings, **extra})


def test_rounds_are_touched_up_to_the_next_clean_sample_on_either_side() -> None:
    rounds, telemetry = frames([0, 0, 1, 0, 0], [0.0, 1.05, 2.05, 3.05, 4.0])
    touched = contention.touched(rounds, telemetry)
    assert list(np.flatnonzero(touched)) == list(range(10, 31))
    assert len(contention.clean(rounds, telemetry)) == 19
    (finding,) = contention.findings(rounds, telemetry)
    assert finding.code == "rounds-left-out"
    assert "21 of 40 rounds" in finding.text


def test_a_guest_at_the_last_sample_touches_everything_after_it() -> None:
    rounds, telemetry = frames([0, 0, 1], [0.0, 1.05, 2.05])
    assert list(np.flatnonzero(contention.touched(rounds, telemetry))) == list(range(10, 40))


def test_too_few_clean_rounds_leave_the_metric_in_doubt() -> None:
    rounds, telemetry = frames([0, 1, 1], [0.55, 1.05, 2.05])
    assert len(contention.clean(rounds, telemetry)) == 40
    assert [finding.code for finding in contention.findings(rounds, telemetry)] == ["other-process"]


def test_this_run_under_the_hosts_process_id_is_no_guest() -> None:
    rounds, telemetry = frames([1, 1], [0.0, 4.0], own_process_listed=[0, 0])
    assert not contention.touched(rounds, telemetry).any()


def test_a_sustained_rate_is_a_history_that_no_round_is_taken_from() -> None:
    rounds, telemetry = frames([0, 0, 1, 0], [0.0, 1.05, 1.15, 1.25])
    rounds["metric"] = "tensor.bf16.sustained"
    assert [finding.code for finding in contention.findings(rounds, telemetry)] == ["other-process"]


@pytest.mark.parametrize(
    ("share", "word", "code"), [(0.3, "conforms", "rounds-left-out"), (0.9, "inconclusive", "other-process")]
)
def test_a_guest_that_slows_some_rounds_changes_no_rate(
    fake_run: Measure, tmp_path: Path, share: float, word: str, code: str
) -> None:
    """The rounds beside the guest take twice as long, as when two kernels share the SMs."""
    path = fake_run()
    lines = lines_of(path)
    ours = [line for line in lines if line["kind"] == "round" and line["metric"] == "tensor.bf16"]
    slowed = ours[: round(share * len(ours))]
    stop = slowed[-1]["start_host_s"] + slowed[-1]["host_s"]
    for line in slowed:
        line |= {"event_s": 2 * line["event_s"], "sm_cycles": [2 * cycles for cycles in line["sm_cycles"]]}
    kept = [line for line in lines if line["kind"] not in ("telemetry", "end")]
    for host_s, others in ((slowed[0]["start_host_s"] - 1e-6, 0), (stop - 1e-6, 1), (stop + 1e-6, 0)):
        kept.append({"kind": "telemetry", "host_s": host_s, "other_processes": others})
    guest = rewrite(tmp_path / "guest.jsonl", kept, ended=False)
    before, after = verify.judge_record(path, None), verify.judge_record(guest, None)
    (verdict,) = [v for v in after.verdicts if v.metric == "tensor.bf16"]
    assert verdict.verdict == word
    assert ("tensor.bf16", code) in {(finding.metric, finding.code) for finding in after.findings}
    others = {v.metric: v.verdict for v in before.verdicts if v.metric != "tensor.bf16"}
    assert {v.metric: v.verdict for v in after.verdicts if v.metric != "tensor.bf16"} == others
    assert gpuassay.read(guest).rounds().shape == gpuassay.read(path).rounds().shape
