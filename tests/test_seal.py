"""Tamper evidence: chain, seal, signature, and what other tools are told."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rewriting import lines_of, rewrite

from gpuassay import export, record, seal
from gpuassay.cli import cli

Measure = Callable[..., Path]


@pytest.fixture(scope="module")
def run_bytes(fake_run: Measure) -> bytes:
    return fake_run().read_bytes()


@pytest.fixture
def run(run_bytes: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "run.jsonl"
    path.write_bytes(run_bytes)
    return path


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """(a private key, the file that allows it)"""
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(key)], check=True)
    signers = tmp_path / "signers"
    signers.write_text(f"lab@example.org {key.with_name('key.pub').read_text()}")
    return key, signers


def call(*arguments: Any) -> Result:
    return CliRunner().invoke(cli, ["record", *map(str, arguments)], catch_exceptions=False)


def changed_in(path: Path) -> int | None:
    """The line that a check blames."""
    with pytest.raises(record.RecordChanged) as caught:
        seal.check(path)
    return caught.value.line


def test_every_changed_byte_of_a_sealed_record_is_found_in_its_line(run: Path, tmp_path: Path) -> None:
    """5,000 bytes, drawn at random, become another byte; on the first 30 lines of a run, to be quick."""
    short = rewrite(tmp_path / "short.jsonl", lines_of(run)[:30])
    data = short.read_bytes()
    seal.seal(short)
    assert seal.check(short) is not None
    rng = random.Random(20)
    for _ in range(5000):
        place = rng.randrange(len(data))
        byte = rng.choice([value for value in range(256) if value != data[place]])
        short.write_bytes(data[:place] + bytes([byte]) + data[place + 1 :])
        with pytest.raises(seal.Broken) as caught:
            seal.check(short)
        line = data[:place].count(b"\n") + 1
        # A newline that comes or goes cuts or joins lines. Without the last one the end mark is taken for half a line,
        # as of a run that was killed, and it is the seal that tells.
        said = [f"line {line}: ", f"line {line + 1}: "] if place < len(data) - 1 else ["status: sealed as 'complete'"]
        assert any(text in str(caught.value) for text in said), (place, byte, str(caught.value))


@pytest.mark.parametrize("number", [2, 7, 40])
def test_lines_removed_added_and_moved_are_found(run: Path, run_bytes: bytes, number: int) -> None:
    lines = run_bytes.splitlines(keepends=True)
    cases = {
        "removed": lines[: number - 1] + lines[number:],
        "added twice": lines[:number] + lines[number - 1 :],
        "moved": [*lines[: number - 1], lines[number], lines[number - 1], *lines[number + 1 :]],
    }
    for what, now in cases.items():
        run.write_bytes(b"".join(now))
        blamed = changed_in(run)
        assert blamed in (number, number + 1), what


def test_a_record_written_anew_is_found_by_its_seal(run: Path, tmp_path: Path) -> None:
    """Whoever can write the whole file can make a chain that fits; the seal still tells."""
    seal.seal(run)
    lines = record.read_lines(run)
    run.unlink()
    with record.RecordWriter(run) as writer:
        for line in lines:
            kind = line.pop("kind")
            if kind == "round":
                line["work"] *= 1.1
            if kind != "end":
                writer.write(kind, **line)
    assert record.read(run).complete
    done = call("check", run)
    assert done.exit_code == 1, done.output
    assert "sha256: sealed as" in done.stderr
    assert json.loads(call("check", run, "--json").stdout)["changed"]


def test_sealed_checked_and_signed(run: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    key, signers = keys
    assert call("check", run).exit_code == 0
    assert "not sealed" in call("check", run).stdout
    assert call("check", run, "--allowed-signers", signers).exit_code == 1
    made = call("seal", run, "--key", key)
    assert made.exit_code == 0, made.output
    digest = made.stdout.split()[0]
    done = call("check", run, "--allowed-signers", signers)
    assert done.exit_code == 0
    assert f"seal {digest}" in done.stdout
    assert "signed by lab@example.org" in done.stdout
    assert "does not show who ran the program" in done.stdout
    unknown = call("check", run)
    assert unknown.exit_code == 0
    assert "a key, not a person" in unknown.stdout
    others = tmp_path / "others"
    others.write_text("")
    refused = call("check", run, "--allowed-signers", others)
    assert refused.exit_code == 1
    assert "the signature does not hold" in refused.stderr


def test_a_signature_of_another_seal_does_not_hold(run: Path, keys: tuple[Path, Path]) -> None:
    key, signers = keys
    made = seal.seal(run, key)
    kept = made.signature.read_bytes()
    again = seal.seal(run, force=True)
    again.path.write_bytes(again.path.read_bytes().replace(b'"sealed": "2', b'"sealed": "1'))
    made.signature.write_bytes(kept)
    assert call("check", run, "--allowed-signers", signers).exit_code == 1


@pytest.mark.parametrize("part", ["run_id", "program", "packages", "kernels"])
def test_an_altered_manifest_is_found(run: Path, part: str) -> None:
    made = seal.seal(run)
    document = json.loads(made.path.read_bytes())
    document[part] = "other"
    made.path.write_text(json.dumps(document))
    with pytest.raises(seal.Broken, match=part):
        seal.check(run)


def test_what_cannot_be_sealed_or_checked_is_said(run: Path, tmp_path: Path) -> None:
    cases = {
        ("seal", tmp_path / "none.jsonl"): "no such file",
        ("seal", run, "--key", tmp_path / "no-key"): "there is no key file",
        ("check", tmp_path / "none.jsonl"): "no such file",
    }
    for arguments, said in cases.items():
        done = call(*arguments)
        assert (done.exit_code, said in done.stderr) == (2, True), done.output
    assert not seal.path_for(run).exists()
    call("seal", run)
    again = call("seal", run)
    assert again.exit_code == 2
    assert "--force" in again.stderr
    assert call("seal", run, "--force").exit_code == 0
    for junk in (b"", b"{}", b"[1]", b"\xff", b"[" * 100_000):
        seal.path_for(run).write_bytes(junk)
        done = call("check", run)
        assert done.exit_code == 2
        assert "is no seal" in done.stderr


def test_a_missing_ssh_keygen_is_said(run: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    done = call("seal", run, "--key", keys[0])
    assert done.exit_code == 2
    assert "install OpenSSH's client" in done.stderr
    assert not seal.path_for(run).exists()


def test_an_in_toto_statement_names_the_record_and_the_verdicts(run: Path) -> None:
    seal.seal(run)
    statement = export.in_toto(run)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert [subject["name"] for subject in statement["subject"]] == ["run.jsonl", "run.jsonl.seal.json"]
    predicate = statement["predicate"]
    assert predicate["result"] == "PASSED"
    assert "tensor.bf16" in predicate["passedTests"]
    assert predicate["failedTests"] == []


def test_an_ro_crate_names_every_file(run: Path) -> None:
    seal.seal(run)
    done = call("export", run, "--format", "ro-crate")
    graph = {entity["@id"]: entity for entity in json.loads(done.stdout)["@graph"]}
    assert {part["@id"] for part in graph["./"]["hasPart"]} == {"run.jsonl", "run.jsonl.seal.json"}
    assert graph["ro-crate-metadata.json"]["about"] == {"@id": "./"}
    assert graph["run.jsonl"]["contentSize"] == str(run.stat().st_size)


def test_the_reference_can_be_checked_and_described() -> None:
    assert call("check", "reference").exit_code == 0
    assert json.loads(call("export", "reference", "--format", "in-toto").stdout)["predicate"]["result"] == "WARNED"
