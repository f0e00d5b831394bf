"""Run records: real files, cut short, damaged, written by many at once and by a killed process."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rewriting import lines_of, rewrite

from gpuassay import record, record_format, store
from gpuassay.record import Record, RecordError, RecordWriter

RUN: dict[str, Any] = {
    "run_id": "0123456789abcdef0123456789abcdef",
    "started": "2025-01-02T03:04:05.000006Z",
    "instrument": "gpuassay 0.0.0",
    "samples": "kept",
    "profile": "quick",
    "program": {"version": "0.0.0", "commit": None},
    "host": {"python": "3.11.7", "platform": "Linux", "packages": {"numpy": "2"}},
    "argv": ["gpuassay", "verify"],
}
KERNEL: dict[str, Any] = {
    "metric": "vector.fp32",
    "toolchain": "cuda c++",
    "name": "vector_fp32",
    "source": "kernels/vector_fp32.cu",
    "source_sha256": "00",
    "cubin_sha256": None,
    "architecture": "sm_90",
    "compiler": "NVRTC 12.9",
    "operations_per_iteration": 256,
    "work_unit": "FLOP",
    "check": {"passed": True, "worst_error": 1e-7, "bound": 1e-6, "where": None},
}


def round_fields(index: int = 0) -> dict[str, Any]:
    return {
        "metric": "vector.fp32",
        "toolchain": "cuda c++",
        "index": index,
        "work": 1.5e12,
        "work_unit": "FLOP",
        "event_s": 0.025,
        "host_s": 0.026,
        "globaltimer_s": 0.0249,
        "sm_clock_hz": 1.76e9,
        "start_host_s": 12345.678 + index,
        "sm_id": [0, 1],
        "sm_cycles": [44_000_000, 44_000_001],
        "sm_work": [7.5e11, 7.5e11],
    }


def write_good(path: Path) -> Path:
    with RecordWriter(path) as writer:
        writer.write("run", **RUN)
        writer.write(
            "device",
            claims=[
                {"quantity": "count.sm", "value": 132, "unit": "1", "source": "cuda"},
                {"quantity": "name", "value": "NVIDIA H100 \u2122", "unit": None, "source": "nvml"},
                {"quantity": "count.sm", "value": 131, "unit": "1", "source": "other"},
            ],
        )
        writer.write("kernel", **KERNEL)
        writer.write("telemetry", host_s=12345.0, power_w=300.5, clock_event_reasons=4)
        writer.write("telemetry", host_s=12345.1, power_w=None, other_pids=[7], fan=0.3)
        for index in range(3):
            writer.write("round", **round_fields(index))
        writer.write("median", metric="tensor.bf16", toolchain=None, value=7e14, unit="FLOP/s", n=5)
        writer.write("not_measured", metric="nvlink.peer", reason="one GPU only")
        writer.write("finding", code="x", severity="info", metric=None, text="A finding.")
        row = {"check": "count.sm", "verdict": "consistent", "claim": 132, "measured": 132, "unit": "1"}
        writer.write("audit", **row, expanded_uncertainty=0.0, text="Distinct %smid.", details={})
    return path


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write_good(tmp_path / "good.jsonl")


@pytest.fixture(scope="module")
def good_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_good(tmp_path_factory.mktemp("record") / "good.jsonl").read_bytes()


def use_fully(read: Record) -> None:
    read.rounds()
    read.telemetry()


# Reading what was written


def test_everything_written_is_read_back(good: Path) -> None:
    read = record.read(good)
    assert read.complete
    assert read.problem is None
    assert read.path == good
    assert read.run == {"kind": "run", "schema": record.SCHEMA, **RUN}
    assert read.claims == {"count.sm": 132, "name": "NVIDIA H100 \u2122"}
    assert [row["value"] for row in read.claim_rows] == [132, "NVIDIA H100 \u2122", 131]
    assert read.kernels == [{"kind": "kernel", **KERNEL}]
    assert read.medians[0]["n"] == 5
    assert read.not_measured[0]["reason"] == "one GPU only"
    assert read.findings[0]["text"] == "A finding."
    assert good.read_bytes().isascii()


def test_rounds_frame(good: Path) -> None:
    frame = store.load(good)
    assert tuple(frame.columns) == record.ROUND_COLUMNS
    assert list(frame["index"]) == [0, 1, 2]
    assert frame["index"].dtype == np.int64
    assert frame["globaltimer_s"].dtype == np.float64
    assert frame["sm_clock_hz"].dtype == np.float64
    assert frame["event_s"].sum() == pytest.approx(0.075)
    cycles = frame["sm_cycles"][0]
    assert cycles.dtype == np.int64
    assert list(cycles) == [44_000_000, 44_000_001]
    assert frame["sm_work"][2].dtype == np.float64


def test_telemetry_frame(good: Path) -> None:
    frame = record.read(good).telemetry()
    assert tuple(frame.columns) == (*record.TELEMETRY_COLUMNS, "fan")
    assert frame["power_w"][0] == 300.5
    assert np.isnan(frame["power_w"][1])
    assert frame["clock_event_reasons"][0] == 4
    assert frame["clock_event_reasons"].isna()[1]
    assert frame["other_pids"][1] == [7]
    assert frame["energy_j"].dtype == np.float64


def test_frames_of_a_record_without_rounds(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "r.jsonl") as writer:
        writer.write("run", **RUN)
    read = record.read(tmp_path / "r.jsonl")
    assert read.complete
    assert tuple(read.rounds().columns) == record.ROUND_COLUMNS
    assert len(read.rounds()) == 0
    assert read.rounds()["work"].dtype == np.float64
    assert tuple(read.telemetry().columns) == record.TELEMETRY_COLUMNS
    assert len(read.telemetry()) == 0


def test_every_documented_field_is_in_the_format_reference() -> None:
    text = record_format.__doc__ or ""
    for kind, fields in record_format.FIELDS.items():
        assert f"``{kind}``" in text
        for name in (*fields, *record_format.OPTIONAL.get(kind, {})):
            assert f"``{name}``" in text, (kind, name)


# Writing


def test_an_existing_file_is_never_overwritten(good: Path) -> None:
    before = good.read_bytes()
    with pytest.raises(FileExistsError):
        RecordWriter(good)
    assert good.read_bytes() == before


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), np.float64("nan")])
def test_nan_and_infinity_are_refused_and_leave_no_trace(tmp_path: Path, value: float) -> None:
    path = tmp_path / "r.jsonl"
    with RecordWriter(path) as writer:
        writer.write("run", **RUN)
        with pytest.raises(ValueError, match="round"):
            writer.write("round", **{**round_fields(), "event_s": value})
        with pytest.raises(ValueError, match="round"):
            writer.write("round", **{**round_fields(), "sm_work": [1.0, value]})
    read = record.read(path)
    assert read.complete
    assert len(read.rounds()) == 0


def test_numpy_values_are_written_as_numbers(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    fields = {
        **round_fields(),
        "index": np.int64(3),
        "event_s": np.float32(0.5),
        "sm_id": np.array([4, 5], dtype=np.uint32),
        "sm_cycles": np.array([2**40, 2**40 + 1], dtype=np.uint64),
    }
    with RecordWriter(path) as writer:
        writer.write("run", **RUN)
        writer.write("round", **fields)
    frame = store.load(path)
    assert frame["index"][0] == 3
    assert list(frame["sm_cycles"][0]) == [2**40, 2**40 + 1]


def test_what_could_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "r.jsonl") as writer:
        writer.write("run", **RUN)
        with pytest.raises(ValueError, match="lacks the field 'reason'"):
            writer.write("not_measured", metric="x")
        with pytest.raises(ValueError, match="differ in length"):
            writer.write("round", **{**round_fields(), "sm_id": [1]})
        with pytest.raises(ValueError, match="unknown"):
            writer.write("gossip", text="x")
        with pytest.raises(ValueError, match="64 bits"):
            writer.write("round", **{**round_fields(), "index": 2**63})
        with pytest.raises(ValueError, match="close"):
            writer.write("end", status="complete")
        with pytest.raises(ValueError, match="no other"):
            writer.write("run", **RUN)
        with pytest.raises(TypeError, match="set"):
            writer.write("device", claims={1})
    assert record.read(tmp_path / "r.jsonl").complete


def test_the_first_line_must_be_the_run(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path / "r.jsonl")
    with pytest.raises(ValueError, match="first line"):
        writer.write("not_measured", metric="x", reason="y")
    with pytest.raises(ValueError, match="first line"):
        writer.close("complete")
    assert writer.closed


def test_an_exception_leaves_a_failed_record(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"

    def fail() -> None:
        with RecordWriter(path) as writer:
            writer.write("run", **RUN)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    read = record.read(path)
    assert not read.complete
    assert "failed" in (read.problem or "")
    assert lines_of(path)[-1]["status"] == "failed"


def test_closing_twice_and_writing_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    writer = RecordWriter(path)
    writer.write("run", **RUN)
    with pytest.raises(ValueError, match="status"):
        writer.close("great")
    writer.close()
    writer.close()
    with pytest.raises(ValueError, match="closed"):
        writer.write("not_measured", metric="x", reason="y")
    assert record.read(path).complete


def test_a_refusing_disk_gets_no_end_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.jsonl"
    writer = RecordWriter(path)
    writer.write("run", **RUN)
    with monkeypatch.context() as patch:

        def refuse(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(os, "fsync", refuse)
        with pytest.raises(OSError, match="No space"):
            writer.write("not_measured", metric="x", reason="y")
    with pytest.raises(ValueError, match="no more lines"):
        writer.write("not_measured", metric="x", reason="y")
    writer.close()
    assert writer.closed
    assert not record.read(path).complete


def test_paths(tmp_path: Path) -> None:
    path = record.new_record_path(tmp_path / "new", "NVIDIA H100 80GB HBM3", "abcdef0123456789")
    assert path.parent == tmp_path / "new"
    stamp, rest = path.name.split("-", 1)
    assert rest == "nvidia-h100-80gb-hbm3-abcdef01.jsonl"
    assert len(stamp) == 16
    names = {record.new_record_path(tmp_path, "../ \u00e9").name for _ in range(50)}
    assert len(names) == 50
    # A name without usable letters must not reach the path.
    assert all(re.fullmatch(r"[0-9TZ]{16}-gpu-[0-9a-f]{8}\.jsonl", name) for name in names)
    RecordWriter(path).close("failed")
    assert path.exists()


def test_many_threads_write_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    start = threading.Barrier(8)

    def work(writer: RecordWriter, number: int) -> None:
        start.wait()
        for index in range(40):
            if number % 2:
                writer.write("telemetry", host_s=index + 0.5, temperature_c=number)
            else:
                writer.write("round", **round_fields(1000 * number + index))

    with RecordWriter(path) as writer:
        writer.write("run", **RUN)
        threads = [threading.Thread(target=work, args=(writer, n)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    read = record.read(path)
    assert read.complete
    indices = set(read.rounds()["index"])
    assert indices == {1000 * number + index for number in range(0, 8, 2) for index in range(40)}
    assert len(read.telemetry()) == 160


KILLED = """
import sys
from gpuassay.record import RecordWriter
from tests_round import RUN, ROUND
writer = RecordWriter(sys.argv[1])
writer.write("run", **RUN)
index = 0
while True:
    writer.write("round", **{**ROUND, "index": index})
    print(index, flush=True)
    index += 1
"""


def test_a_killed_run_leaves_every_finished_line(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    (tmp_path / "tests_round.py").write_text(f"RUN = {RUN!r}\nROUND = {round_fields()!r}\n")
    root = Path(record.__file__).parent.parent
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)],
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": f"{root}:{tmp_path}"},
        text=True,
    )
    assert process.stdout is not None
    last = -1
    with process:
        for line in process.stdout:
            last = int(line)
            if last == 20:
                process.send_signal(signal.SIGKILL)
                break
        rest = process.stdout.read()
    if rest:
        last = int(rest.split()[-1])
    assert process.returncode == -signal.SIGKILL
    read = record.read(path)
    assert not read.complete
    assert "killed" in (read.problem or "")
    indices = list(read.rounds()["index"])
    assert indices == list(range(len(indices)))
    assert len(indices) >= last + 1


# Refusals: one sentence that says what, where and what to do


def refusal(path: Path) -> str:
    with pytest.raises(RecordError) as caught:
        record.read(path)
    text = str(caught.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    assert caught.value.path == path
    return text.removeprefix(str(path))


def test_refusals_of_whole_files(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "none.jsonl")
    assert "directory" in refusal(tmp_path)
    (tmp_path / "empty").touch()
    assert "empty" in refusal(tmp_path / "empty")
    assert "not a regular file" in refusal(Path("/dev/null"))
    assert "cannot be read" in refusal(tmp_path / "empty" / "r.jsonl")
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(record.MAX_BYTES + 1)
    assert "1 GB" in refusal(large)
    with pytest.raises(RecordError, match="cannot be read"):
        record.read("a\0b")


@pytest.mark.parametrize(
    "content",
    [
        b"metric,value\nx,1\n",
        b'{"machine_info": {}}\n',
        b"[1, 2]\n",
        b"\n",
        b"{}",
        b'{"kind":"run","schema":3}\n',
        b'{"kind":"run","schema":"gpuassay.record/0"}\n',
        b'{"kind":"run","schema":"gpuassay.sheet/1"}\n',
        b"[" * 100_000,
        b"9" * 10_000 + b"\n",
    ],
)
def test_foreign_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "foreign"
    path.write_bytes(content)
    assert "not a gpuassay run record" in refusal(path)


def test_a_file_that_is_not_utf8(tmp_path: Path, good: Path) -> None:
    path = tmp_path / "latin"
    path.write_bytes(b"\xff\xfe{\x00}\x00\n")
    assert "not UTF-8" in refusal(path)
    lines = good.read_bytes().splitlines(keepends=True)
    lines[4] = b"\xff" + lines[4]
    path.write_bytes(b"".join(lines))
    text = refusal(path)
    assert text.startswith(", line 5:")
    assert "not UTF-8" in text


def test_a_newer_record(good: Path) -> None:
    good.write_bytes(good.read_bytes().replace(record.SCHEMA.encode(), b"gpuassay.record/99"))
    text = refusal(good)
    assert "version 99" in text
    assert f"up to version {record.SCHEMA_VERSION}" in text
    assert "update gpuassay" in text


def test_a_changed_record(good: Path) -> None:
    good.write_bytes(good.read_bytes().replace(b"0.025", b"0.020", 1))
    assert "was changed after it was written" in refusal(good)


def test_a_removed_line(good: Path) -> None:
    lines = good.read_bytes().splitlines(keepends=True)
    good.write_bytes(b"".join(lines[:5] + lines[6:]))
    assert "was changed after it was written" in refusal(good)


def test_an_appended_line(good: Path) -> None:
    count = len(good.read_bytes().splitlines())
    with good.open("ab") as file:
        file.write(b'{"kind":"not_measured","metric":"x","reason":"y"}\n')
    text = refusal(good)
    assert f"line {count + 1}" in text
    assert "end mark" in text


@pytest.mark.parametrize("junk", [b"{\n", b"\n", b"[]\n", b'{"kind":"gossip"}\n', b'{"a":NaN}\n'])
def test_a_broken_line_in_the_middle(good: Path, junk: bytes) -> None:
    lines = good.read_bytes().splitlines(keepends=True)
    good.write_bytes(b"".join([*lines[:3], junk, *lines[4:]]))
    text = refusal(good)
    assert text.startswith(", line 4: this line is broken")
    assert "restore" in text


FIELDS = [(kind, name) for kind, fields in record_format.FIELDS.items() for name in fields]


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_a_missing_field_is_named_with_its_line(good: Path, kind: str, name: str) -> None:
    lines = lines_of(good)
    number = next(n for n, line in enumerate(lines) if line["kind"] == kind)
    del lines[number][name]
    if kind == "end":
        before = good.read_bytes().splitlines(keepends=True)[:-1]
        good.write_bytes(b"".join(before) + json.dumps(lines[-1]).encode() + b"\n")
    else:
        rewrite(good, lines[:-1])
    text = refusal(good)
    assert text.startswith(f", line {number + 1}:")
    if (kind, name) == ("run", "schema"):
        assert "not a gpuassay run record" in text
    else:
        assert f"'{name}'" in text


@pytest.mark.parametrize(
    ("number", "name", "value"),
    [
        (0, "samples", "some"),
        (0, "program", {"version": "1"}),
        (1, "claims", [{"quantity": "x"}]),
        (1, "claims", [3]),
        (2, "check", {"passed": 1, "worst_error": 0, "bound": 0, "where": None}),
        (3, "power_w", "300"),
        (5, "index", True),
        (5, "index", 1.5),
        (5, "work", 10**400),
        (5, "sm_id", [0, None]),
        (5, "sm_work", [1.0]),
        (10, "severity", "fatal"),
    ],
)
def test_a_wrong_value_is_named_with_its_line(good: Path, number: int, name: str, value: object) -> None:
    lines = lines_of(good)[:-1]
    lines[number][name] = value
    assert refusal(rewrite(good, lines)).startswith(f", line {number + 1}: this line is broken")


# Damage of every kind


def test_a_record_without_its_end_mark(good: Path) -> None:
    lines = good.read_bytes().splitlines(keepends=True)
    good.write_bytes(b"".join(lines[:-1]))
    read = record.read(good)
    assert not read.complete
    assert f"line {len(lines) - 1}" in (read.problem or "")
    assert len(read.rounds()) == 3


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(data=st.data())
def test_any_truncation_reads_as_incomplete_or_is_refused(
    tmp_path: Path, good_bytes: bytes, data: st.DataObject
) -> None:
    keep = data.draw(st.integers(0, len(good_bytes) - 1))
    path = tmp_path / "cut.jsonl"
    path.write_bytes(good_bytes[:keep])
    first = good_bytes.index(b"\n") + 1
    if keep < first:
        with pytest.raises(RecordError):
            record.read(path)
        return
    read = record.read(path)
    assert not read.complete
    assert read.problem
    use_fully(read)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=500)
@given(data=st.data(), sealed=st.booleans())
def test_a_changed_byte_never_crashes(tmp_path: Path, good_bytes: bytes, data: st.DataObject, sealed: bool) -> None:
    content = bytearray(good_bytes)
    body = good_bytes.rindex(b"\n", 0, -1) + 1  # where the end mark begins
    if not sealed:  # without the end mark's sum, the fields' own checks must hold
        del content[body:]
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "flipped.jsonl"
    path.write_bytes(content)
    try:
        read = record.read(path)
    except RecordError:
        return
    if sealed and place < body:
        pytest.fail("a change before the end mark went unseen")
    use_fully(read)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200))
def test_any_bytes_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bytes"
    path.write_bytes(content)
    with pytest.raises(RecordError):
        record.read(path)
