"""How many tensor operations per second, per clock and per SM? On random data.

Every format that a sheet prints stands beside its neighbours, because a capped part is capped in some and not in
others.
"""

import pytest

from gpuassay.device import Device
from gpuassay.timing import Measure, burst, glimpse

pytestmark = pytest.mark.gpu


@burst
@pytest.mark.quick
def test_bf16(measure: Measure) -> None:
    """Through the path that reaches the limit: wgmma on Hopper, mma.sync elsewhere."""
    measure("tensor.bf16", "cuda c++")


@burst
@pytest.mark.parametrize(
    "name", ["fp16", "fp16_acc16", "tf32", "fp8_e4m3", "fp8_e5m2", "int8", "int4", "binary", "fp64"]
)
def test_dense(measure: Measure, name: str) -> None:
    """Through the same path, in every other format."""
    measure(f"tensor.{name}", "cuda c++")


@burst
@pytest.mark.parametrize("name", ["bf16", "fp16", "tf32", "fp8_e4m3", "int8"])
def test_sparse(measure: Measure, name: str) -> None:
    """Two of four elements of A kept (TF32: one of two); the skipped ones are counted, as sheets do."""
    measure(f"tensor.{name}.sparse", "cuda c++")


@burst
@pytest.mark.parametrize("name", ["bf16", "fp16", "tf32", "int8"])
def test_mma_sync(measure: Measure, gpu: Device, name: str) -> None:
    """Through the warp-level path, where it is not the only one."""
    if int(gpu.compute_capability.split(".")[0]) not in (9, 10):
        pytest.skip("mma.sync is this part's own path, which tensor.* measures")
    measure(f"mma_sync.{name}", "cuda c++")


@glimpse
@pytest.mark.parametrize("shape", ["n8", "n16", "n32", "n64", "n128"])
@pytest.mark.parametrize("name", ["bf16", "fp8_e4m3"])
def test_shape(measure: Measure, gpu: Device, name: str, shape: str) -> None:
    """wgmma m64nNkK with A in shared memory; n256 is the headline metric itself. Narrow shapes are limited by shared
    memory on full-rate silicon, and a cap on the tensor rate flattens the curve: no clock has to be trusted."""
    if gpu.compute_capability != "9.0":
        pytest.skip("wgmma exists on compute capability 9.0 only")
    measure(f"tensor.{name}.{shape}", "cuda c++")


@glimpse
@pytest.mark.parametrize("shape", ["n8", "n16", "n32", "n64", "n128", "n256"])
@pytest.mark.parametrize("name", ["bf16", "fp8_e4m3"])
def test_shape_register_a(measure: Measure, gpu: Device, name: str, shape: str) -> None:
    """The same with A in registers, which halves the traffic from shared memory or better."""
    if gpu.compute_capability != "9.0":
        pytest.skip("wgmma exists on compute capability 9.0 only")
    measure(f"tensor.{name}.{shape}.register_a", "cuda c++")
