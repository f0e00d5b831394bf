"""Figures measured by others: CSV and other programs' files, judged row by row."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuassay import sheets, units
from gpuassay.decision import Rule
from gpuassay.figures import FiguresError, judge, read
from gpuassay.metrics import metrics
from gpuassay.verdict import Judgement

HEADER = "metric,value,unit,standard_uncertainty,sm_clock_hz,sm_count,kind,source"


def judged(tmp_path: Path, *rows: str, against: str = "H20", header: str = HEADER) -> Judgement:
    """The judgement of a CSV file with these rows."""
    path = tmp_path / "figures.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return judge(read(str(path)), sheets.load(against), Rule())


@pytest.mark.parametrize(
    ("row", "verdict", "delivered"),
    [
        ("tensor.bf16,1024,FLOP/clk/SM,,,,,", "conforms", "not measured"),
        ("tensor.bf16,148,TFLOPS,,,,,", "conforms", "conforms"),
        ("tensor.bf16,158,TFLOPS,,,,,", "conforms", "conforms"),  # at the maximum clock
        ("tensor.bf16,200,TFLOPS,,,,,", "above", "above"),
        ("tensor.bf16,989,TFLOPS,,,,,", "above", "above"),
        ("tensor.bf16,120,TFLOPS,,,,,", "inconclusive", "below"),  # a lower clock would explain it
        ("tensor.bf16,120,TFLOPS,,1.98e9,78,,", "below", "below"),
        ("tensor.bf16,120,TFLOPS,,1.5e9,78,,", "conforms", "below"),
        ("tensor.bf16,157.8,TFLOPS,,1.98e9,78,,", "conforms", "above"),
        ("tensor.bf16,142.25,TFLOPS,,,,library,", "inconclusive", "inconclusive"),
        ("tensor.bf16,100,TFLOPS,,1.98e9,78,library,", "inconclusive", "inconclusive"),
        ("tensor.bf16,600,TFLOPS,,,,library,", "above", "above"),
        ("vector.fp32,39.2,TFLOPS,,,,,", "unattainable sheet", "unattainable sheet"),
        ("vector.fp32,39.2,TFLOPS,,1.98e9,,,", "conforms", "unattainable sheet"),
        ("vector.fp32,30,TFLOPS,,1.98e9,,,", "below", "unattainable sheet"),
        ("vector.fp32,60,TFLOPS,,,,,", "above", "above"),
        ("vector.fp64,0.61,TFLOPS,,,,,", "inconclusive", "inconclusive"),  # printed "1" may mean 0.5
        ("memory.read,3.76,TB/s,,,,,", "conforms", "conforms"),
        ("memory.read,3.0,TB/s,,,,,", "below", "below"),
        ("memory.read,3.0,TB/s,,,,library,", "inconclusive", "inconclusive"),
        ("memory.write,4.9,TB/s,,,,,", "above", "above"),
        ("count.sm,78,1,,,,,", "conforms", "conforms"),
        ("count.sm,77,SMs,,,,,", "below", "below"),
        ("count.sm,132,,,,,,", "above", "above"),
        ("size.memory,97871,MiB,,,,,", "conforms", "conforms"),
        ("size.memory,80,GiB,,,,,", "below", "below"),
        ("size.l2,50,MiB,,,,,", "below", "below"),
        ("clock.sm,1980,MHz,,,,,", "conforms", "conforms"),
        ("clock.sm,2400,MHz,,,,,", "above", "above"),
        ("latency.memory,344,ns,,,,,", "not published", "not published"),
        ("energy.tensor.bf16,0.3,TFLOPS/W,,,,,", "not published", "not published"),
        ("tensor.bf16.sustained,140,TFLOPS,,,,,", "inconclusive", "below"),
        ("tensor.fp64,0.6,TFLOPS,,,,,", "not published", "not published"),
    ],
)
def test_each_row_gets_its_verdict(row: str, verdict: str, delivered: str, tmp_path: Path) -> None:
    (found,) = judged(tmp_path, row).verdicts
    assert (found.verdict, found.delivered_verdict) == (verdict, delivered), found.reason


def test_one_value_says_that_its_dispersion_is_not_estimated(tmp_path: Path) -> None:
    plain, stated = judged(tmp_path, "memory.read,3.76,TB/s,,,,,", "memory.read,3.76,TB/s,0.01,,,,").verdicts
    assert "type A is not estimated" in plain.reason
    assert plain.expanded_uncertainty is None
    assert "type A" not in stated.reason
    assert stated.expanded_uncertainty == pytest.approx(2 * 0.01e12, rel=1e-3)


def test_a_stated_uncertainty_too_wide_decides_nothing(tmp_path: Path) -> None:
    (found,) = judged(tmp_path, "tensor.bf16,120,TFLOPS,30,1.98e9,78,,").verdicts
    assert found.verdict == "inconclusive"


def test_rows_stay_in_order_and_do_not_touch_each_other(tmp_path: Path) -> None:
    rows = [
        "tensor.bf16,120,TFLOPS,,1.98e9,78,,a",
        "memory.read,3.76,TB/s,,,,,b",
        "tensor.bf16,157,TFLOPS,,1.98e9,78,,c",
    ]
    together = judged(tmp_path, *rows).verdicts
    alone = [judged(tmp_path, row).verdicts[0] for row in rows]
    assert [v.source for v in together] == ["a", "b", "c"]
    assert [v.verdict for v in together] == [v.verdict for v in alone] == ["below", "conforms", "conforms"]
    assert [v.line for v in together] == [2, 3, 4]


def test_the_sm_count_of_a_rate_comes_from_its_row_the_file_or_the_sheet(tmp_path: Path) -> None:
    (row,) = judged(tmp_path, "tensor.bf16,157,TFLOPS,,1.98e9,132,,").verdicts
    assert row.verdict == "below"
    _, file = judged(tmp_path, "count.sm,132,1,,,,,", "tensor.bf16,157,TFLOPS,,1.98e9,,,").verdicts
    assert file.verdict == "below"
    (sheet,) = judged(tmp_path, "tensor.bf16,157,TFLOPS,,1.98e9,,,").verdicts
    assert (sheet.verdict, "SM count by the sheet" in sheet.reason) == ("conforms", True)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("tensor.bf61,148,TFLOPS,,,,,", "line 2, column metric"),
        ("tensor.bf61,148,TFLOPS,,,,,", "did you mean tensor.bf16"),
        ("tensor.bf16,148,TFLOBS,,,,,", "column unit"),
        ("tensor.bf16,148,GB/s,,,,,", "does not measure tensor.bf16"),
        ("memory.read,148,TFLOPS,,,,,", "does not measure memory.read"),
        ("latency.l2,148,MHz,,,,,", "which takes ns"),
        ("tensor.bf16,0,TFLOPS,,,,,", "column value"),
        ("tensor.bf16,-1,TFLOPS,,,,,", "column value"),
        ("tensor.bf16,nan,TFLOPS,,,,,", "column value"),
        ("tensor.bf16,inf,TFLOPS,,,,,", "column value"),
        ("tensor.bf16,,TFLOPS,,,,,", "column value"),
        ("tensor.bf16,1_000,TFLOPS,,,,,", "column value"),
        ('tensor.bf16,"1,480",TFLOPS,,,,,', "no number"),
        ("tensor.bf16,148,TFLOPS,0,,,,", "column standard_uncertainty"),
        ("tensor.bf16,148,TFLOPS,-2,,,,", "column standard_uncertainty"),
        ("tensor.bf16,148,TFLOPS,nan,,,,", "column standard_uncertainty"),
        ("tensor.bf16,148,TFLOPS,,1980,,,", "1980 MHz is 1980000000"),
        ("tensor.bf16,148,TFLOPS,,,77.5,,", "column sm_count"),
        ("tensor.bf16,148,TFLOPS,,,,guess,", "column kind"),
        ("tensor.bf16,148", "2 cells where the header has 8"),
        ('tensor.bf16,"148,TFLOPS', "not valid CSV"),
    ],
)
def test_bad_rows_are_one_sentence(row: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(FiguresError, match=r"figures\.csv") as caught:
        judged(tmp_path, row)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"  \n \n", "empty"),
        (b"metric,value,unit\n", "no rows"),
        (b"metric,value\ntensor.bf16,1\n", "column unit is missing"),
        (b"metric,value,unit,unti\n", 'column "unti" is unknown; did you mean unit'),
        (b"metric,value,unit,unit\n", "twice"),
        (b"\xff\xfe", "UTF-8"),
        (b"metric,value,unit\n\0", "NUL"),
        (b"{", "not valid JSON"),
        (b"[1]", "no known program"),
        (b'{"nvbandwidth": {}}', "not built"),
        (b'{"nvbandwidth": {"testcases": []}}', "no figure"),
        (b"[" * 100_000, "not valid JSON"),
        (b"metric,value,unit\n" + b"x" * 200_000 + b",1,TFLOPS\n", "valid CSV"),
    ],
)
def test_files_that_cannot_be_judged_are_one_sentence(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "figures.csv"
    path.write_bytes(content)
    with pytest.raises(FiguresError) as caught:
        read(str(path))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_control_characters_in_a_source_reach_no_terminal(tmp_path: Path) -> None:
    (found,) = judged(tmp_path, "memory.read,3.76,TB/s,,,,,\x1b[31mred").verdicts
    assert found.source == "?[31mred"


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=300))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("any") / "figures.csv"
    path.write_text(HEADER + "\n" + text, encoding="utf-8", errors="surrogatepass")
    with contextlib.suppress(FiguresError):
        judge(read(str(path)), sheets.load("H20"), Rule())


@given(
    st.sampled_from(sorted(metrics())),
    st.floats(1e-6, 1e6),
    st.sampled_from(["TFLOPS", "GB/s", "ns", "1", "MiB", "MHz"]),
    st.none() | st.floats(1e-6, 1e3),
    st.none() | st.floats(1e8, 1e10),
    st.sampled_from(["", "limit", "library"]),
)
@settings(max_examples=200, deadline=None)
def test_every_valid_row_has_a_verdict_and_a_library_never_proves_a_shortfall(
    tmp_path_factory: pytest.TempPathFactory,
    metric: str,
    value: float,
    unit: str,
    uncertainty: float | None,
    clock: float | None,
    kind: str,
) -> None:
    row = f"{metric},{value},{unit},{uncertainty or ''},{clock or ''},,{kind},"
    try:
        (found,) = judged(tmp_path_factory.mktemp("rows"), row).verdicts
    except FiguresError:
        return
    assert found.reason
    if kind == "library" and metric != "count.sm":
        assert found.verdict != "below"


@pytest.mark.parametrize(
    ("text", "factor", "base"),
    [
        ("TFLOPS", 1e12, "FLOP/s"),
        ("TOPS", 1e12, "FLOP/s"),
        ("GFLOP/s", 1e9, "FLOP/s"),
        ("PFLOPS", 1e15, "FLOP/s"),
        ("GB/s", 1e9, "B/s"),
        ("GiB/s", 2.0**30, "B/s"),
        ("MiB", 2.0**20, "B"),
        ("MHz", 1e6, "Hz"),
        ("ns", 1e-9, "s"),
        ("TFLOPS/W", 1e12, "FLOP/J"),
        ("", 1.0, "1"),
        ("FLOP/clk/SM", 1.0, "FLOP/clk/SM"),
    ],
)
def test_units_as_people_write_them(text: str, factor: float, base: str) -> None:
    assert units.parse(text) == (factor, base)


@given(st.text(max_size=20))
def test_any_text_is_a_unit_or_none(text: str) -> None:
    found = units.parse(text)
    assert found is None or found[0] > 0


# -- other programs ---------------------------------------------------------------------------------------------


def written(tmp_path: Path, document: Any) -> str:
    """The path of a file with this content."""
    path = tmp_path / "other.out"
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return str(path)


def test_nvbandwidth(tmp_path: Path) -> None:
    document = {
        "nvbandwidth": {
            "version": "v0.8",
            "testcases": [
                {"name": "device_local_copy", "status": "Passed", "bandwidth_matrix": [["1116.0"]], "sum": 1116.0},
                {"name": "host_to_device_memcpy_ce", "status": "Passed", "bandwidth_matrix": [["55.1", "N/A"]]},
                {"name": "all_to_host_memcpy_sm", "status": "Passed", "bandwidth_matrix": [["1"]]},
                {"name": "device_to_host_memcpy_ce", "status": "Waived"},
            ],
        }
    }
    figures = read(written(tmp_path, document))
    assert [(row.metric.name, row.value, row.kind) for row in figures.rows] == [
        ("memory.copy", 2 * 1116e9, "library"),  # it counts a copied byte once
        ("pcie.h2d", 55.1e9, "library"),
    ]
    assert figures.ignored == ["all_to_host_memcpy_sm", "device_to_host_memcpy_ce"]
    judgement = judge(figures, sheets.load("H20-3e"), Rule())
    assert judgement.verdicts[0].verdict == "inconclusive"
    assert "all_to_host_memcpy_sm" in judgement.findings[0].text


@pytest.mark.parametrize("median", [0, 10**400, None, "x"])
def test_a_time_that_is_none_is_one_sentence(tmp_path: Path, median: Any) -> None:
    extra = {"metric": "memory.read", "work": 1e9, "work_unit": "B"}
    document = {"benchmarks": [{"name": "t", "stats": {"median": median}, "extra_info": extra}]}
    with pytest.raises(FiguresError, match="is not built as its kind of file is"):
        read(written(tmp_path, document))


def test_clpeak(tmp_path: Path) -> None:
    tests = [
        {"id": "global_memory_bandwidth", "unit": "GB/s", "metrics": [{"id": "float", "value": 3500.0}, {"id": "x"}]},
        {
            "id": "single_precision_compute",
            "unit": "GFLOPS",
            "metrics": [{"id": "a", "value": 3e4}, {"id": "b", "value": 3.8e4}],
        },
        {"id": "kernel_latency", "unit": "us", "metrics": [{"id": "latency", "value": 4.0}]},
    ]
    document = {
        "schema": "clpeak/run",
        "format_version": 1,
        "devices": [{"backend": "CUDA", "name": "H20", "tests": tests}],
    }
    figures = read(written(tmp_path, document))
    assert [(row.metric.name, row.value) for row in figures.rows] == [("memory.read", 3.5e12), ("vector.fp32", 3.8e13)]
    assert figures.ignored == ["kernel_latency"]


def test_babelstream(tmp_path: Path) -> None:
    text = (
        "function,num_times,n_elements,sizeof,max_mbytes_per_sec,min_runtime,max_runtime,avg_runtime\n"
        "Copy,100,33554432,8,3300000.5,0.1,0.2,0.15\nMul,100,1,8,1,1,1,1\nTriad,100,33554432,8,3500000,0.1,0.1,0.1\n"
    )
    figures = read(written(tmp_path, text))
    assert [(row.metric.name, row.value) for row in figures.rows] == [
        ("memory.copy", pytest.approx(3.3000005e12)),
        ("memory.triad", 3.5e12),
    ]


def test_pytest_benchmark_of_our_own_suites(fake_run: Any, tmp_path: Path) -> None:
    """The JSON of a real (fake-GPU) run gives the rates of its record."""
    import gpuassay
    from gpuassay import verify

    out = tmp_path / "bench.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{Path(__file__).parent}:{Path(__file__).parent.parent}")
        record = verify.measure(
            device=0,
            profile="quick",
            out=tmp_path,
            part="FAKE H100",
            pytest_arguments=("-p", "fake_gpu", f"--benchmark-json={out}"),
        )
    figures = read(str(out))
    rounds = gpuassay.load(record)
    for row in figures.rows:
        ours = rounds[rounds["metric"] == row.metric.name]
        rate = (ours["work"] / ours["event_s"]).median()
        assert row.value == pytest.approx(1 / rate if row.metric.unit == "s" else rate, rel=0.01)
        assert row.kind == "limit"
    words = {v.metric: v.verdict for v in judge(figures, sheets.load("H100-SXM"), Rule()).verdicts}
    assert words["tensor.bf16"] == "conforms"


# -- the command ------------------------------------------------------------------------------------------------


def run(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """`gpuassay judge ARGUMENTS`."""
    command = [sys.executable, "-m", "gpuassay", "judge", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, input=text, timeout=100)
    assert "Traceback" not in done.stdout + done.stderr
    return done


def test_the_command_judges_thousands_of_rows_from_standard_input() -> None:
    rows = "".join(f"tensor.bf16,{120 + i % 60},TFLOPS,,1.98e9,78,limit,row {i}\n" for i in range(2000))
    started = time.monotonic()
    done = run("-", "--against", "H20", "--json", text=f"{HEADER}\n{rows}")
    assert time.monotonic() - started < 30
    document = json.loads(done.stdout)
    assert done.returncode == 1
    assert [row["source"] for row in document["verdicts"]] == [f"row {i}" for i in range(2000)]
    assert set(document) >= {"schema", "part", "sheet", "overall", "verdicts", "findings"}
    wanted = "metric published measured unit expanded_uncertainty share_of_published share_of_limit verdict"
    assert set(f"{wanted} delivered_verdict reason attribution".split()) <= set(document["verdicts"][0])


def test_exit_codes_follow_the_verdicts(tmp_path: Path) -> None:
    for row, code in (
        ("tensor.bf16,157.8,TFLOPS,,1.98e9,78,,", 0),
        ("tensor.bf16,120,TFLOPS,,1.98e9,78,,", 1),
        ("tensor.bf61,120,TFLOPS,,1.98e9,78,,", 2),
        ("tensor.bf16,120,TFLOPS,,,,,", 3),
    ):
        assert run("-", "--against", "H20", text=f"{HEADER}\n{row}\n").returncode == code, row
    row = "tensor.bf16,157.8,TFLOPS,,1.98e9,78,,"
    assert run("-", "--against", "H20", "--require", "delivered", text=f"{HEADER}\n{row}\n").returncode == 1
    # With a guard band of three U, and at 99.7 %, the same figure is too close to decide.
    strict = ("--guard", "3", "--confidence", "0.997")
    assert run("-", "--against", "H20", *strict, text=f"{HEADER}\n{row}\n").returncode == 3
    assert run(str(tmp_path), "--against", "H20").returncode == 2
    assert run(str(tmp_path / "none.csv"), "--against", "H20").returncode == 2
    assert run("-", "--against", "H21", text=f"{HEADER}\n{row}\n").returncode == 2


def test_ten_million_rows_are_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    with path.open("w", encoding="utf-8") as file:
        file.write("metric,value,unit\n")
        for _ in range(1000):
            file.write("memory.read,3.7,TB/s\n" * 10_000)
    started = time.monotonic()
    done = run(str(path), "--against", "H20")
    assert done.returncode == 2
    assert "larger than 64 MB" in done.stderr
    assert time.monotonic() - started < 10
