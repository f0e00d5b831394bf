"""How many vector operations per second, per clock and per SM?"""

import pytest

from gpuassay.timing import Measure, burst

pytestmark = [pytest.mark.gpu, burst]


@pytest.mark.quick
@pytest.mark.parametrize("kind", ["fp32", "fp64"])
def test_fma(measure: Measure, kind: str) -> None:
    measure(f"vector.{kind}", "cuda c++")


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
def test_packed_fma(measure: Measure, kind: str) -> None:
    measure(f"vector.{kind}", "cuda c++")


@pytest.mark.parametrize("kind", ["int32", "int32_add", "logic", "shift", "dp4a", "popc", "shuffle"])
def test_integer(measure: Measure, kind: str) -> None:
    measure(f"vector.{kind}", "cuda c++")


@pytest.mark.parametrize("function", ["ex2", "lg2", "rcp", "rsqrt", "sin", "tanh"])
def test_special_function(measure: Measure, function: str) -> None:
    measure(f"sfu.{function}", "cuda c++")


@pytest.mark.parametrize("kinds", ["f32_bf16", "f32_fp8", "i32_f32"])
def test_conversion(measure: Measure, kinds: str) -> None:
    measure(f"convert.{kinds}", "cuda c++")


@pytest.mark.parametrize("kind", ["fp32", "fp64", "int32"])
def test_numba(measure: Measure, kind: str) -> None:
    measure(f"vector.{kind}", "numba")
