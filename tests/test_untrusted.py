"""Files and names from strangers: nothing they hold is run, drives the terminal, or leaves its place."""

from __future__ import annotations

import json
import os
import pty
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import fuzz
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rewriting import lines_of, rewrite

from gpuassay import figures, record, seal, sheets, untrusted, verify
from gpuassay.cli import cli
from gpuassay.cli_report import FORMATS
from gpuassay.fleet.store import Store, StoreError
from gpuassay.report import lab

Measure = Callable[..., Path]
HOSTILE = "\x1b]0;title\x07\x1b[8mH20\u202e<script>alert(1)</script>[/red]\x9b2J\r=1+1"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture(scope="module")
def hostile(fake_run: Measure, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose texts from outside all try something."""
    lines = lines_of(fake_run())
    lines[0]["run_id"] = "../../escaped" + HOSTILE
    for claim in next(line["claims"] for line in lines if line["kind"] == "device"):
        if claim["unit"] is None and claim["quantity"] not in ("compute_capability", "pci.device_id"):
            claim["value"] = HOSTILE
    lines.append({"kind": "finding", "code": HOSTILE, "severity": "warning", "metric": HOSTILE, "text": HOSTILE})
    lines.append({"kind": "not_measured", "metric": HOSTILE, "reason": HOSTILE})
    return rewrite(tmp_path_factory.mktemp("hostile") / "run.jsonl", lines)


def test_damaged_files_end_in_one_sentence(fake_run: Measure) -> None:
    """A small part of `make fuzz`."""
    found = list(fuzz.run(4500, 1_000_000, 600, fake_run()))
    assert len(found) == 1, found
    assert found[0].startswith("4500 cases")


def test_well_formed_nonsense_is_judged_or_refused(fake_run: Measure) -> None:
    found = list(fuzz.run(40, 2_000_000, 600, fake_run(), judge=True))
    assert len(found) == 1, found


@pytest.mark.parametrize("depth", [500, 100_000])
def test_deep_nesting_is_no_traceback(tmp_path: Path, depth: int) -> None:
    path = tmp_path / "deep"
    path.write_text("a = " + "[" * depth + "]" * depth)
    with pytest.raises(lab.LabError):
        lab.read(path)
    with pytest.raises(sheets.SheetError):
        sheets.load(str(path.rename(tmp_path / "deep.toml")))
    nested = '{"a":' * depth + "1" + "}" * depth
    (tmp_path / "figures.json").write_text(nested)
    with pytest.raises(figures.FiguresError):
        figures.read(str(tmp_path / "figures.json"))
    (tmp_path / "r.jsonl").write_text(nested + "\n")
    with pytest.raises(record.RecordError):
        record.read(tmp_path / "r.jsonl")
    seal.path_for(tmp_path / "r.jsonl").write_text(nested)
    with pytest.raises(seal.SealError):
        seal.read_seal(tmp_path / "r.jsonl")
    Store.create(tmp_path / "store")
    (tmp_path / "store" / "status" / "x.json").write_text(nested)
    with pytest.raises(StoreError):
        list(Store(tmp_path / "store").statuses())


def test_keys_of_hundreds_of_parts_are_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / "deep.toml"
    path.write_text("a." * 480 + "b = 1\n")
    with pytest.raises(sheets.SheetError, match="nests more than 50"):
        sheets.load(str(path))


def test_numbers_of_thousands_of_digits_are_no_traceback(tmp_path: Path) -> None:
    digits = "9" * 10_000
    path = tmp_path / "long.toml"
    path.write_text(f"a = {digits}\n")
    with pytest.raises(lab.LabError):
        lab.read(path)
    with pytest.raises(sheets.SheetError):
        sheets.load(str(path))
    (tmp_path / "f.csv").write_text(f"metric,value,unit\ntensor.bf16,{digits},TFLOPS\n")
    with pytest.raises(figures.FiguresError):
        figures.read(str(tmp_path / "f.csv"))


def test_no_text_from_a_record_drives_the_terminal(hostile: Path) -> None:
    """On a terminal, where colours are on: nothing but colours, and those all ours."""
    shown = on_a_terminal("verify", "--replay", str(hostile))
    assert "<script>" in shown  # it is shown, as text
    assert "\x1b[8m" not in shown
    rest = COLOUR.sub("", shown).replace("\r\n", "\n")
    assert [c for c in rest if not c.isprintable() and c != "\n"] == []


def test_nor_does_a_file_name(tmp_path: Path) -> None:
    name = tmp_path / "a\x1b]0;title\x07\x1b[8m.jsonl"
    name.write_text("{}\n")
    for command in (["verify", "--replay", str(name)], ["history", str(tmp_path)], ["record", "check", str(name)]):
        shown = COLOUR.sub("", on_a_terminal(*command)).replace("\r\n", "\n")
        assert [c for c in shown if not c.isprintable() and c not in "\n\t"] == [], command


def on_a_terminal(*arguments: str) -> str:
    """What a command writes to a terminal, both streams together."""
    main, side = pty.openpty()
    command = [sys.executable, "-m", "gpuassay", *arguments]
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "200"}
    with subprocess.Popen(command, stdin=side, stdout=side, stderr=side, env=environment) as process:
        os.close(side)
        said = b""
        while True:
            try:
                piece = os.read(main, 65536)
            except OSError:  # the other end was closed
                break
            if not piece:
                break
            said += piece
    os.close(main)
    assert process.returncode in (0, 1, 2, 3)
    return said.decode(errors="surrogateescape")


@pytest.mark.parametrize("form", FORMATS)
def test_no_report_carries_what_a_record_tries(hostile: Path, tmp_path: Path, form: str) -> None:
    """Nothing is written outside the folder, whatever the run calls itself; no markup, no control character."""
    (tmp_path / "in").mkdir()
    before = os.getcwd()
    os.chdir(tmp_path / "in")
    try:
        done = CliRunner().invoke(cli, ["report", str(hostile), "--format", form], catch_exceptions=False)
    finally:
        os.chdir(before)
    assert done.exit_code == 0, done.output
    assert os.listdir(tmp_path) == ["in"]
    if form == "pdf":
        return
    text = next(tmp_path.glob("in/*")).read_text() if form == "html" else done.stdout
    assert [c for c in text if ord(c) < 32 and c not in "\n\t"] == []
    assert "\u202e" not in text
    if form in ("html", "md", "junit"):
        assert "<script>alert" not in text


@given(st.text())
def test_printable_text_drives_nothing(text: str) -> None:
    shown = untrusted.printable(text)
    assert len(shown) == len(text)
    assert all(c.isprintable() or c in "\n\t" for c in shown)
    shown.encode("utf-8")


def test_compiled_code_is_cached_where_nobody_else_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "gpuassay").mkdir(mode=0o777)
    (tmp_path / "gpuassay").chmod(0o777)
    folder = verify.private_cache()
    assert folder == tmp_path / "gpuassay"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.rmdir()
    (tmp_path / "gpuassay").symlink_to(tmp_path)
    other = verify.private_cache()
    assert other != tmp_path / "gpuassay"
    assert stat.S_IMODE(other.stat().st_mode) == 0o700
    other.rmdir()


def test_the_main_job_needs_no_network(tmp_path: Path) -> None:
    """In a network namespace without interfaces, not even loopback: a run, its judgement, its report."""
    isolated = ["unshare", "-n"] if os.getuid() == 0 else ["unshare", "-rn"]
    try:
        subprocess.run([*isolated, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespace can be made here: {error}")
    here = Path(__file__).parent
    script = """
import json, socket, sys
from pathlib import Path
from gpuassay import verify
from gpuassay.cli import cli
try:
    socket.create_connection(("127.0.0.1", 9), timeout=1)
    raise SystemExit("there is a network")
except OSError as error:
    assert error.errno == 101, error  # ENETUNREACH: not even loopback
path = verify.measure(device=0, profile="quick", out=Path("out"), part="FAKE", pytest_arguments=("-p", "fake_gpu"))
cli(["report", str(path), "-o", "report.html"], standalone_mode=False)
print(json.dumps(verify.judge_record(path, None).overall))
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(here), str(here.parent)]), "FAKE_GPU": "{}"}
    done = subprocess.run(
        [*isolated, sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == "conforms"
    assert (tmp_path / "report.html").stat().st_size > 10_000
