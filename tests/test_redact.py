"""Redaction: nothing that tells whose board it is stays, and nothing that was measured goes."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rewriting import lines_of, rewrite

from gpuassay import record, redact, verify
from gpuassay.cli import cli

Measure = Callable[..., Path]
UUID = "GPU-00112233-4455-6677-8899-aabbccddeeff"
SERIAL = "1652922004437"
SECRETS = (UUID, rf"(?<!\d){SERIAL}(?!\d)", "0000:3B:00.0", "/home/wang", "nv-hostengine", r"\[4711\]", "--out")
KEY = bytes(range(32))


@pytest.fixture(scope="module")
def telling(fake_run: Measure, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which every field that could tell whose board it is does."""
    lines = lines_of(fake_run("standard"))
    lines[0]["argv"] = ["pytest", "--out", "/home/wang/results"]
    claims = next(line["claims"] for line in lines if line["kind"] == "device")
    claims[:] = [claim for claim in claims if claim["quantity"] not in ("uuid", "serial")]
    claims += [
        {"quantity": "uuid", "value": UUID, "unit": None, "source": "FAKE"},
        {"quantity": "serial", "value": SERIAL, "unit": None, "source": "FAKE"},
    ]
    for line in lines:
        if line["kind"] == "telemetry":
            line["other_pids"] = [4711]
    text = f"Board {UUID.upper()}, serial {SERIAL} at 0000:3B:00.0: see /home/wang/log, 1 of 21652922004437."
    row = {"claim": SERIAL, "measured": {"at": [text]}, "expanded_uncertainty": None, "unit": None}
    lines += [
        {"kind": "finding", "code": "x", "severity": "info", "metric": None, "text": text},
        {"kind": "audit", "check": "serial", "verdict": "not observable", "text": text, "details": {}, **row},
        {
            "kind": "audit",
            "check": "vendor agents",
            "verdict": "not observable",
            "text": "",
            "details": {"agents": ["nv-hostengine"]},
            **row,
        },
    ]
    return rewrite(tmp_path_factory.mktemp("telling") / "run.jsonl", lines)


def test_what_tells_whose_board_it_is_is_gone(telling: Path, tmp_path: Path) -> None:
    target = tmp_path / "redacted.jsonl"
    what = redact.redact(telling, target, KEY)
    text = target.read_text()
    assert [secret for secret in SECRETS if re.search(secret, text, re.IGNORECASE)] == []
    assert [secret for secret in SECRETS if not re.search(secret, telling.read_text(), re.IGNORECASE)] == []
    assert what == record.read(target).run["redacted"]["what"]
    assert {"GPU", "serial", "pci", "home", "process ids (left out)"} <= set(what)
    assert "21652922004437" in text  # a longer number is another number
    metrics = set(record.read(target).rounds()["metric"])
    assert metrics == set(record.read(telling).rounds()["metric"]) - {redact.SM_MAP}
    assert redact.SM_MAP in set(record.read(telling).rounds()["metric"])


def test_the_verdicts_stay(telling: Path, tmp_path: Path) -> None:
    target = tmp_path / "redacted.jsonl"
    redact.redact(telling, target, KEY)
    before, after = verify.judge_record(telling, None), verify.judge_record(target, None)
    assert {v.metric: (v.verdict, v.measured) for v in after.verdicts} == {
        v.metric: (v.verdict, v.measured) for v in before.verdicts if v.metric != redact.SM_MAP
    }
    assert after.record is not None
    assert before.record is not None
    assert (after.record.complete, after.record.run["started"]) == (True, before.record.run["started"])


def test_one_key_gives_one_board_one_pseudonym(telling: Path, tmp_path: Path) -> None:
    made = [tmp_path / f"{n}.jsonl" for n in range(3)]
    for path, key in zip(made, (KEY, KEY, bytes(32)), strict=True):
        redact.redact(telling, path, key)
    first, same, other = (record.read(path).claims["uuid"] for path in made)
    assert first == same != other
    assert first.startswith("GPU-redacted-")


def test_a_run_that_was_cut_off_stays_cut_off(telling: Path, tmp_path: Path) -> None:
    cut, target = tmp_path / "cut.jsonl", tmp_path / "redacted.jsonl"
    cut.write_bytes(telling.read_bytes()[:-40])
    redact.redact(cut, target, KEY)
    found = record.read(target)
    assert (found.complete, found.ended) == (False, False)


def test_the_command(telling: Path, tmp_path: Path) -> None:
    run = tmp_path / "run.jsonl"
    run.write_bytes(telling.read_bytes())

    def call(*arguments: object) -> tuple[int, str]:
        done = CliRunner().invoke(cli, ["record", "redact", *map(str, arguments)], catch_exceptions=False)
        return done.exit_code, done.output

    code, said = call(run)
    assert (code, "serial" in said, SERIAL in said) == (0, True, False)
    key = tmp_path / redact.KEY_NAME
    assert key.stat().st_mode & 0o777 == 0o600
    kept = key.read_bytes()
    assert call(run)[0] == 2  # the copy exists
    assert call(run, "-o", tmp_path / "again.jsonl")[0] == 0
    assert key.read_bytes() == kept
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "run.redacted.jsonl").read_bytes()
    key.write_text("hello")
    code, said = call(run, "-o", tmp_path / "third.jsonl")
    assert (code, "is no key" in said) == (2, True)
    assert call(tmp_path / "none.jsonl")[0] == 2
    assert not list(tmp_path.glob("none.redacted*"))


@given(st.text(max_size=60), st.sampled_from(["", " ", ",", "(", "'"]), st.sampled_from(["", " ", ".", ")", "'"]))
def test_a_uuid_is_found_in_any_text(text: str, before: str, after: str) -> None:
    names = {UUID: redact.pseudonym("GPU", UUID, KEY)}
    cleaned = redact._replaced(text + " " + before + UUID + after + " " + text, names, KEY, lambda _: None)
    assert UUID not in cleaned


def test_the_key_is_never_in_the_record(telling: Path, tmp_path: Path) -> None:
    key = redact.key_beside(tmp_path / "key")
    redact.redact(telling, tmp_path / "r.jsonl", key)
    assert key.hex() not in (tmp_path / "r.jsonl").read_text()
    assert os.listdir(tmp_path).count("key") == 1
    assert json.loads((tmp_path / "r.jsonl").read_text().splitlines()[0])["argv"] == []
