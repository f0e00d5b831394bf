"""Feeds every parser of strangers' files with damaged ones: `python tests/fuzz.py --cases 1000000 --processes 2`.

A case ends well where the parser gives a result or raises its own error. It ends badly on any other exception, after
more than a second of processor time (other programs' load does not count), and, for a whole process, above 1 GiB of
memory. Each bad case is kept, and reproducible from its seed. tests/test_untrusted.py runs a few thousand of these.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rewriting import lines_of, rewrite
from rich.console import Console

from gpuassay import figures, record, redact, seal, units, verify
from gpuassay.fleet import report as fleet_report
from gpuassay.fleet.store import PACK, Store, StoreError, row_schema
from gpuassay.report import document, html, terminal
from gpuassay.report.lab import Lab, LabError
from gpuassay.report.lab import read as read_lab
from gpuassay.sheets import SheetError
from gpuassay.sheets.read import parse_sheet
from gpuassay.verdict import Judgement

LIMIT_S = 1.0
LIMIT_BYTES = 2**30
ROOT = Path(__file__).parent.parent

# What tends to break parsers: extreme numbers, markup, escapes, paths, half encodings, formulas, deep nesting.
DICTIONARY = [
    *(b"0 -1 1e999 -1e999 NaN Infinity 9223372036854775808 1e308 5e-324 -0.0 0x10 1_000 true null".split()),
    b'""', b"[]", b"{}", b'"\\ud800"', b'"\\u0000"', b'"\\u001b]0;x\\u0007"', b"\x00", b"\xff", b"\xc3\x28",
    b"\xed\xa0\x80",
    b"=cmd|' /C calc'!A0", b"<script>alert(1)</script>", b"../../../etc/passwd", b"file:///etc/passwd", b"{{7*7}}",
    b"[/red]", b"%s%n", b"\r", b"\n", b"\t", b",", b";", b'"', b"'", b"[", b"]", b"{", b"}", b"=", b"#", b"\\",
    b"\xe2\x80\xae",
    b"[" * 3000, b"{\"a\":" * 3000, b"9" * 5000, b"a" * 70000, b"a.b." * 500, b"[[x]]\n" * 50, b"9999-99-99T99:99:99Z",
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2**62, -(2**63), 10**400, 1e308, -1e308, 5e-324, 0.5, "", "x", "\x1b[8m", "<b>",
    "\ud83d",
    [], {},
    [1], [[]], {"a": 1}, [0] * 50, "a" * 5000, "../../x", "=1+1", "nan", "2026-01-01T00:00:00Z", "tensor.bf16",
    "memory.read",
]  # fmt: skip


def mutated(data: bytes, rng: random.Random) -> bytes:
    """`data` after one to four damages."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out) + 1)
        until = min(len(out), at + rng.choice([1, 2, 8, 64, 512]))
        kind = rng.randrange(6)
        if kind == 0 and at < len(out):
            out[at] = rng.randrange(256)
        elif kind == 1:
            del out[at:until]
        elif kind == 2:
            out[at:at] = rng.choice(DICTIONARY)
        elif kind == 3:
            out[at:until] = rng.choice(DICTIONARY)
        elif kind == 4:
            out[at:at] = out[rng.randrange(len(out) + 1) :][: rng.choice([4, 40, 400])]
        else:
            del out[at:]
    return bytes(out)


def mutated_document(value: Any, rng: random.Random, depth: int = 0) -> Any:
    """A JSON value with one of its parts replaced, removed, renamed or doubled."""
    if depth < 8 and isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        changed = dict(value)
        act = rng.random()
        if act < 0.1:
            del changed[key]
        elif act < 0.2:
            changed[str(rng.choice(VALUES))[:50]] = changed.pop(key)
        else:
            changed[key] = mutated_document(value[key], rng, depth + 1)
        return changed
    if depth < 8 and isinstance(value, list) and value and rng.random() < 0.9:
        place = rng.randrange(len(value))
        act = rng.random()
        if act < 0.1:
            return value[:place] + value[place + 1 :]
        if act < 0.2:
            return [*value[:place], value[place], *value[place:]]
        return [*value[:place], mutated_document(value[place], rng, depth + 1), *value[place + 1 :]]
    return rng.choice(VALUES)


# One file of each program whose JSON is read, with values that reach all of its parser.
FIGURES: list[Any] = [
    {
        "nvbandwidth": {
            "testcases": [
                {"name": "host_to_device_memcpy_ce", "status": "Passed", "bandwidth_matrix": [["55.1", "N/A"]]},
                {"name": "device_to_host_memcpy_ce", "status": "Waived"},
            ]
        }
    },
    {
        "schema": "clpeak/run",
        "devices": [
            {
                "backend": "CUDA",
                "name": "H20",
                "tests": [{"id": "global_memory_bandwidth", "unit": "GB/s", "metrics": [{"id": "a", "value": 3500.0}]}],
            }
        ],
    },
    {
        "benchmarks": [
            {
                "name": "test_read",
                "stats": {"median": 0.02},
                "extra_info": {
                    "metric": "memory.read",
                    "variant": None,
                    "work": 6e10,
                    "work_unit": "B",
                    "sm_clock_hz": 1.98e9,
                    "sm_count": 78,
                },
            }
        ]
    },
]


class Targets:
    """The parsers, each with files that it reads without complaint."""

    def __init__(self, folder: Path, run: Path) -> None:
        self.folder = folder
        self.lines = lines_of(verify.reference_record())
        self.sampled = lines_of(run)
        reference = verify.reference_record()
        self.record_files = [reference.read_bytes(), rewrite(folder / "a.jsonl", self.sampled[:40]).read_bytes()]
        sealed = folder / "b.jsonl"
        sealed.write_bytes(self.record_files[0])
        self.seal_file = seal.seal(sealed).path.read_bytes()
        self.sheets = [path.read_bytes() for path in sorted((ROOT / "gpuassay" / "sheets").glob("*.toml"))]
        self.lab = b'laboratory = "L"\naddress = "A"\nreceived = "2026-01-01"\n[customer_supplied]\nx = "y"\n'
        self.figures = [
            b"metric,value,unit,standard_uncertainty,sm_clock_hz,sm_count,kind,source\n"
            b"tensor.bf16,157.8,TFLOPS,0.4,1980000000,78,limit,ours\nmemory.read,3.71,TB/s,,,,limit,ours\n",
            b"function,num_times,n_elements,sizeof,max_mbytes_per_sec,min_runtime,max_runtime,avg_runtime\n"
            b"Copy,100,33554432,8,3000000,0.1,0.2,0.15\nTriad,100,33554432,8,3100000,0.1,0.2,0.15\n",
            *(json.dumps(document).encode() for document in FIGURES),
        ]
        self.store = folder / "store"
        store = Store.create(self.store)
        status = {"uuid": "GPU-1", "node": "n", "slot": "0", "phase": "alone", "state": "ok", "run_id": "r"}
        store.set_status("b", **status, part="H20", overall="conforms")
        row = {"run_id": "r", "metric": "memory.read", "unit": "B/s", "verdict": "below", "value": 1.0}
        pq.write_table(pa.Table.from_pylist([row, row], row_schema()), self.store / PACK)
        self.rows = (self.store / PACK).read_bytes()
        self.names = [name for name in dir(self) if name.startswith("try_")]

    def file(self, data: bytes, name: str = "case") -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path

    def try_record(self, rng: random.Random) -> None:
        path = self.file(mutated(rng.choice(self.record_files), rng))
        accept((record.RecordError,), lambda: used(record.read(path)))

    def try_record_with_a_fitting_chain(self, rng: random.Random) -> None:
        lines = list(self.lines[:6] if rng.random() < 0.5 else self.sampled[:12])
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(len(lines))
            lines[place] = mutated_document(lines[place], rng)
        if not all(isinstance(line, dict) for line in lines):
            return
        path = rewrite(self.folder / "case", lines, ended=rng.random() < 0.8)
        accept((record.RecordError,), lambda: used(record.read(path)))

    def judge(self, rng: random.Random) -> None:
        """A whole judgement of a record whose values are not what a GPU gives; seconds each, so not among the rest."""
        lines = list(self.sampled)
        for _ in range(rng.randint(1, 6)):
            place = rng.randrange(len(lines) if rng.random() < 0.5 else min(12, len(lines)))
            changed = mutated_document(lines[place], rng)
            lines[place] = changed if isinstance(changed, dict) else lines[place]
        path = rewrite(self.folder / "case", lines)
        accept((record.RecordError, SheetError, verify.VerifyError), lambda: render(verify.judge_record(path, None)))

    def try_seal(self, rng: random.Random) -> None:
        self.file(mutated(self.seal_file, rng), "c.jsonl.seal.json")
        accept((seal.SealError,), lambda: seal.read_seal(self.folder / "c.jsonl"))

    def try_sheet(self, rng: random.Random) -> None:
        text = mutated(rng.choice(self.sheets), rng).decode(errors="replace")
        accept((SheetError,), lambda: parse_sheet(text, "case.toml"))

    def try_lab(self, rng: random.Random) -> None:
        accept((LabError,), lambda: read_lab(self.file(mutated(self.lab, rng))))

    def try_figures(self, rng: random.Random) -> None:
        accept((figures.FiguresError,), lambda: figures.read(str(self.file(mutated(rng.choice(self.figures), rng)))))

    def try_figures_of_other_programs(self, rng: random.Random) -> None:
        document = rng.choice(FIGURES)
        for _ in range(rng.randint(1, 3)):
            document = mutated_document(document, rng)
        path = self.file(json.dumps(document).encode())
        accept((figures.FiguresError,), lambda: figures.read(str(path)))

    def try_fleet_store(self, rng: random.Random) -> None:
        (self.store / "store.json").write_bytes(mutated(b'{"schema": "gpuassay.fleet/1"}\n', rng))
        status = b'{"key": "a", "uuid": "GPU-1", "node": "n", "slot": "0", "phase": "alone", "state": "done"}\n'
        (self.store / "status" / "a.json").write_bytes(mutated(status, rng))
        accept((StoreError,), lambda: list(Store(self.store).statuses()))
        accept((StoreError,), lambda: Store.open(self.store))

    def try_fleet_rows(self, rng: random.Random) -> None:
        if rng.random() < 0.5:
            (self.store / PACK).write_bytes(mutated(self.rows, rng))
        else:
            columns = mutated_document(pq.read_table(io.BytesIO(self.rows)).to_pydict(), rng)
            try:
                table = pa.table(columns if rng.random() < 0.5 else {k: pa.array(v * 2) for k, v in columns.items()})
                pq.write_table(table, self.store / PACK)
            except Exception:
                return  # no such table can be: nothing of ours was tried
        (self.store / "status" / "a.json").unlink(missing_ok=True)
        (self.store / "store.json").write_text('{"schema": "gpuassay.fleet/1"}')
        accept((StoreError,), lambda: fleet_report.build(Store.open(self.store)))

    def try_key(self, rng: random.Random) -> None:
        accept((redact.RedactError,), lambda: redact.key_beside(self.file(mutated(b"0123456789abcdef" * 4, rng))))

    def try_unit(self, rng: random.Random) -> None:
        text = mutated(b"TFLOP/s", rng).decode(errors="replace")
        accept((), lambda: units.parse(text))


def render(judgement: Judgement) -> None:
    json.dumps(judgement.to_json(), allow_nan=False)
    Console(file=io.StringIO(), width=100).print(terminal.judgement(judgement, details=True))
    html.write(document.build(judgement, Lab(), draw=False))


def used(read: record.Record) -> None:
    read.rounds()
    read.telemetry()


def accept(errors: tuple[type[Exception], ...], act: Callable[[], object]) -> None:
    """Runs `act`; its own errors are fine as long as they can be shown."""
    try:
        act()
    except errors as error:
        str(error).encode("utf-8", errors="backslashreplace")


class TooSlow(Exception):
    """A case took more than LIMIT_S."""


def _stop(*_: Any) -> None:
    raise TooSlow


def run(cases: int, seed: int, seconds: float, sample: Path, judge: bool = False) -> Iterator[str]:
    """Runs the cases `seed`, `seed` + 1, ...; yields what went wrong, and last a summary. `judge`: whole judgements,
    under a limit of a minute each."""
    signal.signal(signal.SIGPROF, _stop)
    done, start, last = 0, time.monotonic(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        targets = Targets(Path(folder), sample)
        outside = sorted(path.name for path in Path(folder).parent.iterdir() if path.name.startswith("passwd"))
        for number in range(seed, seed + cases):
            if time.monotonic() - start > seconds:
                break
            rng = random.Random(number)
            name = "judge" if judge else targets.names[number % len(targets.names)]
            try:
                signal.setitimer(signal.ITIMER_PROF, 60 * LIMIT_S if judge else LIMIT_S)
                try:
                    getattr(targets, name)(rng)
                finally:
                    signal.setitimer(signal.ITIMER_PROF, 0)
            except Exception as error:
                ours = [f for f in traceback.extract_tb(error.__traceback__) if "gpuassay" in f.filename][-1:]
                where = "".join(f" at {Path(frame.filename).name}:{frame.lineno}" for frame in ours)
                yield f"case {number}, {name}: {type(error).__name__}{where}: {str(error)[:200]}"
            done += 1
            if time.monotonic() - last > 30:
                last = time.monotonic()
                print(f"  {done} cases, {last - start:.0f} s", file=sys.stderr)
        assert outside == sorted(path.name for path in Path(folder).parent.iterdir() if path.name.startswith("passwd"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if peak > LIMIT_BYTES:
        yield f"memory peaked at {peak / 2**20:.0f} MiB"
    yield f"{done} cases in {time.monotonic() - start:.0f} s, peak {peak / 2**20:.0f} MiB"


def _worker(job: tuple[int, int, float, Path, bool]) -> list[str]:
    return list(run(*job))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--sample", type=Path, default=verify.reference_record(), help="a record to damage as well")
    parser.add_argument("--judge", action="store_true", help="whole judgements of well-formed records, seconds each")
    given = parser.parse_args()
    each = -(-given.cases // given.processes)
    jobs = [(each, given.seed + n * each, given.seconds, given.sample, given.judge) for n in range(given.processes)]
    with multiprocessing.Pool(given.processes) as pool:
        lines = [line for found in pool.map(_worker, jobs) for line in found]
    print("\n".join(lines))
    return int(any(line.startswith(("case", "memory")) for line in lines))


if __name__ == "__main__":
    sys.exit(main())
