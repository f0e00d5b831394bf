"""What the part can do at all, found by trying: a census of functions beside what the sheet prints of them.

Whatever ran, with results that its reference confirmed, works. Whatever the device or its driver turned down is
refused, with the reason. What this architecture has no instruction for, or the driver says is not there, is absent.
What a driver only speaks of, and nothing here tries, is claimed. A function that works and that no sheet prints is all
that "hidden functionality" can mean to a test from outside; what nobody tried stays unknown.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..kernels import KERNELS, NO_KERNEL, kernels_for, no_kernel
from ..metrics import SUSTAINED, metric, metrics
from ..record import Record
from . import Row, Word

if TYPE_CHECKING:
    from ..device import Device
    from ..kernels import Kernel
    from ..sheets import Sheet

Answer = Literal["works", "computes wrongly", "refused", "absent", "claimed"]

TRIED, QUERIES = "capabilities tried", "driver's capabilities"  # rows of the check that needs a GPU
TRY_S = 0.001  # of a launch after the check
TRY_BYTES = 64 * 2**20
CLUSTER_SIZES = (2, 4, 8, 16)  # 8 is the portable maximum, 16 needs an opt-in (CUDA C++ Programming Guide, clusters)
# How CUDA says that the device cannot do this, as names and texts of cudaError_t.
DENIED = re.compile("illegal ?instruction|not ?supported|invalid ?device ?function|no ?kernel ?image", re.IGNORECASE)
CLUSTER_SOURCE = "audit_capability.cu"
PROFILING = "proc/driver/nvidia/params"


@dataclass(frozen=True)
class Capability:
    """One function: what became of trying it, by which call or kernel, and what the sheet prints of it."""

    name: str
    answer: Answer
    by: str
    sheet: str | None = None


def row(record: Record, sheet: Sheet | None) -> Row:
    """The census of a record: its rounds, what it could not measure, and what the audit's check tried besides."""
    found = {c.name: c for c in [*_of_check(record), *_of_rounds(record)]}  # a measurement outweighs a trial
    order = {name: place for place, name in enumerate(metrics())}
    census = [
        Capability(c.name, c.answer, c.by, _printed(c.name, sheet))
        for c in sorted(found.values(), key=lambda c: order.get(c.name, len(order)))
    ]
    if not any(c.answer in ("works", "computes wrongly") for c in census):
        return Row("capabilities", "not tested", "The record does not hold rounds of any kernel.")
    wrong = [c.name for c in census if c.answer == "computes wrongly"]
    # What this program has no kernel for, or no memory, says nothing of the part, though the sheet prints it.
    denied = [c.name for c in census if c.answer == "refused" and c.sheet and DENIED.search(c.by)]
    more = [c.name for c in census if c.answer == "works" and c.sheet is None and _has_sheet_quantity(c.name)]
    counts = {word: sum(c.answer == word for c in census) for word in ("works", "refused", "absent", "claimed")}
    text = "Functions that were tried: " + ", ".join(f"{count} {name}" for name, count in counts.items()) + "; "
    text += f"wrong results of: {', '.join(wrong)}; " if wrong else ""
    text += f"refused although the sheet prints it: {', '.join(denied)}; " if denied else ""
    text += f"works although the sheet does not print it: {', '.join(more)}; " if more and sheet is not None else ""
    text += "rates above a sheet are among the verdicts, and what was not tried is unknown."
    details = {"capabilities": [c.__dict__ for c in census], "unprinted": more if sheet is not None else []}
    word: Word = "inconsistent" if wrong or denied else "consistent" if sheet is not None else "not observable"
    return Row("capabilities", word, text, None, counts["works"], 0.0, "1", details)


def grouped(census: Iterable[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """(answer, by which kernel or call, the functions with what the sheet prints of each) of a row's details: a hundred
    functions have a handful of answers."""
    found: dict[tuple[str, str], list[str]] = {}
    for c in census:
        printed = f" ({c['sheet']})" if c["sheet"] else ""
        found.setdefault((str(c["answer"]), str(c["by"])), []).append(f"{c['name']}{printed}")
    return [(answer, by, ", ".join(names)) for (answer, by), names in found.items()]


def _of_check(record: Record) -> Iterator[Capability]:
    for line in record.audit:
        if line["check"] in (TRIED, QUERIES):
            for found in line["details"].get("capabilities", ()):
                with contextlib.suppress(KeyError, TypeError):  # a record of another version
                    yield Capability(str(found["name"]), found["answer"], str(found["by"]))


def _of_rounds(record: Record) -> Iterator[Capability]:
    for line in record.not_measured:
        name = str(line["metric"])
        if not line.get("variant") and line.get("toolchain") != "numba":
            yield Capability(_base(name), "absent" if _absent(line["reason"]) else "refused", str(line["reason"])[:200])
    for line in record.findings:
        if line["code"] == "check-failed" and line.get("metric"):
            yield Capability(str(line["metric"]), "computes wrongly", "its result against the reference")
    rounds = record.rounds()
    wrong = {str(line.get("metric")) for line in record.findings if line["code"] == "check-failed"}
    for name in dict.fromkeys(map(str, rounds["metric"])) if len(rounds) else ():
        if name not in wrong:
            yield Capability(_base(name), "works", "measured")


def _base(name: str) -> str:
    return name.removesuffix(SUSTAINED)


def _absent(reason: str) -> bool:
    return reason.startswith(NO_KERNEL) or "needs a second GPU" in reason


def _has_sheet_quantity(name: str) -> bool:
    return metric(name).published is not None


def _printed(name: str, sheet: Sheet | None) -> str | None:
    quantity = metric(name).published if name in metrics() else None
    found = sheet.published_quantity(quantity) if sheet is not None and quantity else None
    return None if found is None else found.text


# -- on the device --------------------------------------------------------------------------------------------


def try_kernels(device: Device) -> Row:
    """One launch of every kernel of this program, after its check against the reference."""
    names = dict.fromkeys(k.metric for k in KERNELS if k.toolchain == "cuda c++" and not metric(k.metric).curve_point)
    found: list[Capability] = []
    lost = ""
    for name in names:
        tried, alive = _try(device, name)
        found.append(tried)
        if not alive:
            lost = f"; the CUDA context was lost with {name}, so that nothing more could be tried"
            break
    counts = {word: sum(c.answer == word for c in found) for word in ("works", "computes wrongly", "refused", "absent")}
    text = "A launch of every kernel, and its result against the reference: "
    text += ", ".join(f"{count} {name}" for name, count in counts.items()) + f"{lost}."
    return Row(TRIED, "not observable", text, None, counts["works"], 0.0, "1", _details(found))


def _try(device: Device, name: str) -> tuple[Capability, bool]:
    """One kernel, and whether the CUDA context survived it."""
    from ..device import DeviceError
    from ..faults import cuda_failure
    from ..kernels.compile import CompileError

    kernel: Kernel | None = next(
        (k for k in kernels_for(name, "cuda c++") if k.architecture_for(device.compute_capability)), None
    )
    if kernel is None:
        return Capability(name, "absent", no_kernel(name, "cuda c++", device.compute_capability)), True
    try:
        footprint_bytes = TRY_BYTES if kernel.work_unit == "B" else None
        workload = device.prepare(kernel, round_s=TRY_S, footprint_bytes=footprint_bytes)
        try:
            if workload.check.passed:
                return Capability(name, "works", f"{kernel.symbol} of {kernel.source}"), True
            return Capability(name, "computes wrongly", f"{kernel.symbol}: {workload.check.where}"), True
        finally:
            workload.close()
    except (DeviceError, CompileError) as error:
        return Capability(name, "refused", str(error)[:200]), True
    except Exception as error:
        failure = cuda_failure(error)
        if failure is None:
            raise
        return Capability(name, "refused", failure[0][:200]), not failure[1]


def queries(nvml: Any, handle: Any, parameters: Path = Path("/") / PROFILING) -> list[Capability]:
    """What the driver says of engines and modes, by getters only. No mode is switched to try it."""

    def ask(name: str, call: str, arguments: tuple[Any, ...], told: Callable[[Any], tuple[Answer, str]]) -> Capability:
        try:
            answer, what = told(getattr(nvml, call)(*arguments))
        except (nvml.NVMLError, AttributeError, TypeError) as error:
            permitted = "ermission" not in str(error)
            return Capability(name, "absent" if permitted else "refused", f"{call}: {error}")
        return Capability(name, answer, f"{call}: {what}" if what else call)

    def there(_: Any) -> tuple[Answer, str]:
        return "claimed", ""

    def capacity(percent: Any) -> tuple[Answer, str]:
        # Not by its utilisation, which is 0 % where there is no encoder too.
        return ("claimed" if int(percent) else "absent"), f"capacity {percent} %"

    def mode(states: Any) -> tuple[Answer, str]:
        return "claimed", "enabled" if states[0] else "disabled, and not switched here"

    def confidential(found: Any) -> tuple[Answer, str]:
        capable = bool(getattr(found, "gpusCaps", 0))
        return ("claimed" if capable else "absent"), f"gpusCaps {getattr(found, 'gpusCaps', 'not given')}"

    def state(found: Any) -> tuple[Answer, str]:
        return ("works" if getattr(found, "ccFeature", 0) else "claimed"), "on" if found.ccFeature else "off"

    def counted(found: Any) -> tuple[Answer, str]:
        return ("claimed" if found.isSupportedDevice else "absent"), f"isSupportedDevice {found.isSupportedDevice}"

    found = [
        ask("NVENC", "nvmlDeviceGetEncoderCapacity", (handle, getattr(nvml, "NVML_ENCODER_QUERY_H264", 0)), capacity),
        ask("NVDEC", "nvmlDeviceGetDecoderUtilization", (handle,), there),
        ask("NVJPEG", "nvmlDeviceGetJpgUtilization", (handle,), there),
        ask("OFA", "nvmlDeviceGetOfaUtilization", (handle,), there),
        ask("MIG", "nvmlDeviceGetMigMode", (handle,), mode),
        ask("confidential computing", "nvmlSystemGetConfComputeCapabilities", (), confidential),
        ask("confidential computing, on", "nvmlSystemGetConfComputeState", (), state),
        ask("performance counters, GPM", "nvmlGpmQueryDeviceSupport", (handle,), counted),
    ]
    return [*found, profiling(parameters)]


def profiling(parameters: Path) -> Capability:
    """Whether a user may read the SMs' performance counters (CUPTI, Nsight), by the driver's parameter."""
    name, what = "performance counters, CUPTI", f"/{PROFILING}, RmProfilingAdminOnly"
    try:
        lines = dict(line.split(":", 1) for line in parameters.read_text(encoding="utf-8").splitlines() if ":" in line)
        only = int(lines["RmProfilingAdminOnly"])
    except (OSError, ValueError, KeyError) as error:
        return Capability(name, "refused", f"{what}: {type(error).__name__}")
    return Capability(name, "refused" if only else "claimed", f"{what} is {only}")


def try_launches(driver: Any, compute_capability: str, sm_count: int) -> list[Capability]:
    """Clusters of several sizes, a cooperative launch and the way to other GPUs, on the current CUDA device.

    `driver` is cuda.bindings.driver. Raises kernels.compile.CompileError.
    """
    import numpy as np

    from ..kernels.compile import compile_source
    from .launch import architecture

    code = compile_source(CLUSTER_SOURCE, "audit_capability", architecture(compute_capability))
    image = np.frombuffer(code.cubin, dtype=np.uint8)
    try:
        module = _called(driver.cuModuleLoadData, image.ctypes.data)
    except _Refused as error:
        return [Capability("clusters and cooperative launch", "refused", str(error)), *_engines_and_peers(driver)]
    try:
        function = _called(driver.cuModuleGetFunction, module, b"audit_capability")
        found = [_cooperative(driver, function, sm_count)]
        if int(compute_capability.partition(".")[0]) >= 9:
            found += [_cluster(driver, function, size) for size in CLUSTER_SIZES]
        else:
            found.append(Capability("clusters", "absent", "clusters of blocks exist from compute capability 9.0"))
    finally:
        driver.cuModuleUnload(module)
    return found + _engines_and_peers(driver)


class _Refused(Exception):
    """A call of the CUDA driver that was not CUDA_SUCCESS."""


def _called(call: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a driver call without its code. Raises _Refused with the call's name and CUDA's."""
    code, *rest = call(*arguments)
    if int(code) != 0:
        raise _Refused(f"{call.__name__}: {code.name}")
    return rest[0] if rest else None


def _launched(driver: Any, name: str, function: Any, grid: int, attribute: Any, expected: int) -> Capability:
    """Whether a launch with `attribute` ran, and every block saw a cluster of `expected` blocks."""
    import numpy as np

    seen = np.zeros(grid, dtype=np.uint32)
    config = driver.CUlaunchConfig()
    config.gridDimX, config.gridDimY, config.gridDimZ = grid, 1, 1
    config.blockDimX, config.blockDimY, config.blockDimZ = 32, 1, 1
    config.sharedMemBytes, config.hStream = 0, 0
    config.attrs, config.numAttrs = [attribute], 1
    try:
        memory = _called(driver.cuMemAlloc, seen.nbytes)
        try:
            _called(driver.cuMemsetD32, memory, 0, grid)
            pointer = np.array([int(memory)], dtype=np.uint64)
            arguments = np.array([pointer.ctypes.data], dtype=np.uint64)
            _called(driver.cuLaunchKernelEx, config, function, arguments.ctypes.data, 0)
            _called(driver.cuMemcpyDtoH, seen.ctypes.data, memory, seen.nbytes)  # waits for the launch
        finally:
            driver.cuMemFree(memory)
    except _Refused as error:
        return Capability(name, "refused", str(error))
    right = bool((seen == expected).all())
    return Capability(name, "works" if right else "computes wrongly", f"cuLaunchKernelEx of {grid} blocks")


def _cooperative(driver: Any, function: Any, sm_count: int) -> Capability:
    attribute = driver.CUlaunchAttribute()
    attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_COOPERATIVE
    attribute.value.cooperative = 1
    return _launched(driver, "cooperative launch", function, sm_count, attribute, 1)


def _cluster(driver: Any, function: Any, size: int) -> Capability:
    name = f"clusters of {size} blocks"
    try:
        if size > 8:
            allowed = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED
            _called(driver.cuFuncSetAttribute, function, allowed, 1)
    except _Refused as error:
        return Capability(name, "refused", str(error))
    attribute = driver.CUlaunchAttribute()
    attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
    attribute.value.clusterDim.x, attribute.value.clusterDim.y, attribute.value.clusterDim.z = size, 1, 1
    return _launched(driver, name, function, size, attribute, size)


def _engines_and_peers(driver: Any) -> list[Capability]:
    attributes = driver.CUdevice_attribute
    try:
        here = _called(driver.cuCtxGetDevice)
        engines = _called(driver.cuDeviceGetAttribute, attributes.CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT, here)
        found = [Capability("copy engines", "claimed" if engines else "absent", f"cuDeviceGetAttribute: {engines}")]
        count = _called(driver.cuDeviceGetCount)
        if count < 2:
            return [*found, Capability("peer access", "absent", "cuDeviceGetCount: one GPU")]
        for other in (_called(driver.cuDeviceGet, ordinal) for ordinal in range(count)):
            if int(other) != int(here):
                can = _called(driver.cuDeviceCanAccessPeer, here, other)
                name = f"peer access to device {int(other)}"
                found.append(Capability(name, "claimed" if can else "refused", f"cuDeviceCanAccessPeer: {can}"))
    except _Refused as error:
        return [Capability("copy engines and peers", "refused", str(error))]
    return found


def queries_row(found: list[Capability]) -> Row:
    """The row of what the driver says and what trial launches gave."""
    counts = {word: sum(c.answer == word for c in found) for word in ("works", "refused", "absent", "claimed")}
    text = "Launches in clusters, cooperative launches, engines and modes: "
    text += ", ".join(f"{count} {name}" for name, count in counts.items()) + "; no mode was switched to try it."
    return Row(QUERIES, "not observable", text, None, len(found), 0.0, "1", _details(found))


def _details(found: list[Capability]) -> dict[str, Any]:
    return {"capabilities": [{"name": c.name, "answer": c.answer, "by": c.by} for c in found]}
