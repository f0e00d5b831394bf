"""The models of tensor arithmetic: their published figures, that vectors tell them apart, that every bit matters."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from gpuassay.audit.fingerprint import FAMILIES, LENGTH, Arithmetic, classify, dot, predicted, row, vectors
from gpuassay.audit.fingerprint_run import PATHS, Path, agreed, compiled, packed, paths_for, run
from gpuassay.kernels.census import disassemble


def units(family: str, exponent: int) -> float:
    """1 + 15 x 2^-exponent, over K = 16, in units of 2^-23 above 1."""
    arithmetic = FAMILIES[family]["fp16"]
    ones = [1.0] * 16
    return (dot(arithmetic, [1.0] + [2.0**-exponent] * 15, ones, 0.0) - 1) * 2**23


@pytest.mark.parametrize(
    ("exponent", "expected"),
    [(24, {"V100": 0, "A100": 7, "H100": 7}), (25, {"V100": 0, "A100": 0, "H100": 3}), (26, {"H100": 0})],
)
def test_fp16_gives_the_published_figures(exponent: int, expected: dict[str, int]) -> None:
    assert {family: units(family, exponent) for family in expected} == expected


def test_fp8_gives_the_published_figures() -> None:
    def of(family: str, exponent: int) -> float:
        return dot(FAMILIES[family]["fp8_e4m3"], [1.0] + [2.0**-exponent] * 31, [1.0] * 32, 0.0)

    assert of("H100", 13) == of("B200", 13) == of("L40S", 13) == 1 + 31 * 2**-13
    assert of("H100", 14) == of("L40S", 14) == 1.0
    assert of("B200", 14) == pytest.approx(1.00189, abs=1e-5)


def test_every_family_is_told_from_every_other() -> None:
    for name, model in FAMILIES.items():
        found = classify(predicted(model))
        # Of Ada and Ampere the FP16 sums are one; V100 is asked in FP16 only.
        assert found == (["A100", "L40S"] if name == "A100" else [name])


CHANGES = [
    (name, dtype, changed)
    for name, model in FAMILIES.items()
    for dtype, right in model.items()
    for changed in (
        replace(right, fraction_bits=right.fraction_bits - 1),
        replace(right, fraction_bits=right.fraction_bits + 1),
        replace(right, group=right.group // 2),
        replace(right, group=right.group * 2),
        replace(right, rounding="RNE"),
    )
    # More products than one MMA has cannot show, nor can a rounding of sums that fit FP32 whole.
    if changed.group <= LENGTH[dtype] and not (changed.rounding == "RNE" and right.fraction_bits < 18)
]


@pytest.mark.parametrize(("name", "dtype", "changed"), CHANGES)
def test_one_wrong_bit_in_a_model_is_caught(name: str, dtype: str, changed: Arithmetic) -> None:
    model = FAMILIES[name]
    assert predicted({dtype: changed})[dtype] != predicted(model)[dtype]
    assert name not in classify(predicted(model | {dtype: changed}))


def test_vectors_are_exact_in_their_formats() -> None:
    for vector in vectors("fp16"):
        assert np.array_equal(np.float16(vector.a).astype(float), vector.a)
        assert np.float32(vector.c) == vector.c
    for vector in vectors("fp8_e4m3"):
        assert {x for x in (*vector.a, *vector.b) if x} <= {2.0**e for e in range(-9, 9)}


def test_the_row_says_family_not_product() -> None:
    hopper = predicted(FAMILIES["H100"])
    assert row(hopper, "9.0", {}).verdict == "consistent"
    assert row(hopper, "8.9", {}).verdict == "inconsistent"
    assert row(hopper, "12.0", {}).verdict == "not observable"


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.symbol)
def test_the_machine_code_does_one_mma_of_the_format(path: Path) -> None:
    wanted = {"fp16": r"HG?MMA", "bf16": r"HG?MMA", "fp8_e4m3": r"QG?MMA"}[path.dtype]
    for architecture in path.architectures:
        text = disassemble(compiled(path, architecture))
        assert len(re.findall(rf"\b{wanted}\.", text)) == 1
        assert len(re.findall(r"\b[HQ]G?MMA\.|\bF2FP", text)) == 1


def test_hopper_is_asked_in_fp8_by_warpgroups() -> None:
    chosen = {(path.dtype, path.wgmma): architecture for path, architecture in paths_for("9.0")}
    expected = {("fp16", False): "sm_90", ("bf16", False): "sm_90", ("fp16", True): "sm_90a"}
    assert chosen == expected | {("fp8_e4m3", True): "sm_90a"}
    assert [path.dtype for path, _ in paths_for("10.0")] == ["fp16", "bf16"]


def test_operands_are_packed_as_the_formats_are() -> None:
    assert packed([[1.0, 2.0] * 8], "fp16")[0, 0] == 0x4000_3C00
    assert packed([[1.0, 0.5] * 8], "bf16")[0, 0] == 0x3F00_3F80
    assert packed([[1.0, 2.0**-9, 256.0, 2.0**-6] * 8], "fp8_e4m3")[0, 0] == 0x08_78_01_38


def test_lanes_that_differ_are_no_fingerprint() -> None:
    asked = vectors("fp16")[:2]
    output = np.ones((2, 128), np.float32)
    assert agreed(output, asked) == [1.0, 1.0]
    output[1, 77] += 1e-3
    with pytest.raises(ValueError, match="elements of one MMA differ"):
        agreed(output, asked)


def stand_in_for_cupy(monkeypatch: pytest.MonkeyPatch, family: str, wrong_lane: bool = False) -> None:
    """A device whose tensor cores add as `family` does; one of its lanes may be wrong."""

    class Array(np.ndarray):  # type: ignore[type-arg]
        def get(self) -> object:
            return np.array(self)

    def empty(shape: object, dtype: object) -> object:
        return np.full(shape, np.nan, dtype).view(Array)  # type: ignore[call-overload]

    def function(code: object, symbol: str) -> object:
        def launch(grid: tuple[int], block: tuple[int], arguments: tuple[object, ...]) -> None:
            dtype = symbol.removeprefix("fingerprint_").rpartition("_")[0]
            a, b, _, output = arguments
            assert isinstance(output, np.ndarray)
            assert np.shape(a) == np.shape(b) == (grid[0], 8)
            assert output.shape == (grid[0], block[0] * 4)
            output[:] = np.array(predicted(FAMILIES[family])[dtype], np.float32)[:, None]
            if wrong_lane:
                output[3, 9] += 1

        return launch

    monkeypatch.setattr(Array, "data", SimpleNamespace(memset=lambda value, size: None), raising=False)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(empty=empty, asarray=np.asarray))  # type: ignore[arg-type]
    monkeypatch.setattr("gpuassay.audit.launch.function", function)


def test_a_whole_run_names_the_family(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in_for_cupy(monkeypatch, "H100")
    found = run("9.0")
    assert (found.verdict, found.measured) == ("consistent", "H100")
    assert found.details["other_paths_alike"] == {"wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16": True}
    assert set(found.details["paths"]) == {"fp16", "bf16", "fp8_e4m3"}
    assert run("8.0").verdict == "inconsistent"


def test_a_wrong_lane_is_a_wrong_tensor_core(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in_for_cupy(monkeypatch, "H100", wrong_lane=True)
    assert run("9.0").verdict == "inconsistent"
    assert "computes wrongly" in run("9.0").text


def test_a_part_without_a_path_is_not_tested() -> None:
    assert paths_for("7.0") == []
