"""What the device and its driver say of themselves, as NVML reports it.

Claims, not measurements: each row names the NVML function that said it.  Only getters are
called; nothing here changes a setting of the GPU.

NVML numbers devices by PCI bus order and does not know CUDA_VISIBLE_DEVICES, so that CUDA's
device 0 may be another one: go by UUID with `nvml_index_of_uuid`.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

__all__ = [
    "NoDriver",
    "as_text",
    "device_count",
    "driver_version",
    "first_supported",
    "mig_instance",
    "mig_instances",
    "nvml_claims",
    "nvml_index_of_uuid",
    "open_nvml",
]

PCI_DEVICES = Path("/sys/bus/pci/devices")  # Linux: sysfs-bus-pci
# How NVML and its Python binding say "not on this product, in this virtual machine, to this user,
# or with this driver".  Names, since older bindings lack some.
_UNSUPPORTED = (
    "NVMLError_NotSupported",
    "NVMLError_NoPermission",
    "NVMLError_FunctionNotFound",
    "NVMLError_ArgumentVersionMismatch",
    "NVMLError_Deprecated",
    "NVMLLibraryMismatchError",
)


class NoDriver(Exception):
    """No NVIDIA driver can be asked on this machine; the text says why."""


def open_nvml() -> Any:
    """Initialise NVML and return the module `pynvml`; the caller calls its ``nvmlShutdown``.

    NVML counts its users, so nested calls are fine.

    Raises:
        NoDriver: libnvidia-ml is missing or fails to initialise.
    """
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError as error:
        raise NoDriver(
            "The Python package nvidia-ml-py, through which the NVIDIA driver is asked, is not installed."
        ) from error
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        if isinstance(error, _errors(nvml, ("NVMLError_LibraryNotFound",))):
            text = "No NVIDIA driver is installed here: its library libnvidia-ml was not found."
        else:
            text = f"The NVIDIA driver's library libnvidia-ml does not initialise: {error}."
        raise NoDriver(text) from error
    return nvml


@contextlib.contextmanager
def _opened() -> Iterator[Any]:
    nvml = open_nvml()
    try:
        yield nvml
    finally:
        # A shutdown that fails after a device was lost must not hide the error that matters.
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def _errors(nvml: Any, names: tuple[str, ...]) -> tuple[type[Exception], ...]:
    return tuple(error for name in names if (error := getattr(nvml, name, None)) is not None)


def first_supported(nvml: Any, names: tuple[str, ...], *args: Any) -> tuple[str, Any] | None:
    """Call the first of several NVML functions that this binding, driver and device support.

    Args:
        nvml: the module that `open_nvml` returned.
        names: function names, newest first.
        args: their common arguments.

    Returns:
        (the function's name, its result), or None where none is supported or allowed.

    Raises:
        pynvml.NVMLError: any other failure, such as a lost GPU.
    """
    unsupported = _errors(nvml, _UNSUPPORTED)
    for name in names:
        function = getattr(nvml, name, None)
        if function is None:
            continue
        with contextlib.suppress(*unsupported):
            return name, function(*args)
    return None


def as_text(value: Any) -> str:
    """nvidia-ml-py decodes what most of its getters give, but not all."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def device_count() -> int:
    """The number of NVIDIA GPUs that NVML sees.

    Raises:
        NoDriver: there is no NVIDIA driver to ask.
    """
    with _opened() as nvml:
        return int(nvml.nvmlDeviceGetCount())


def driver_version() -> str | None:
    """The driver's version, such as "580.65.06"; None without an NVIDIA driver."""
    try:
        with _opened() as nvml:
            answer = first_supported(nvml, ("nvmlSystemGetDriverVersion",))
    except NoDriver:
        return None
    return None if answer is None else str(answer[1])


def _uuid_digits(uuid: str | bytes) -> str:
    text = uuid.hex() if isinstance(uuid, bytes) else uuid
    return text.lower().removeprefix("gpu-").removeprefix("mig-").replace("-", "")


def mig_instances(nvml: Any, handle: Any) -> list[tuple[Any, str]]:
    """(handle, UUID "MIG-...") of a GPU's MIG instances; empty where MIG is off or unknown to this GPU."""
    try:
        mode = first_supported(nvml, ("nvmlDeviceGetMigMode",), handle)
        most = first_supported(nvml, ("nvmlDeviceGetMaxMigDeviceCount",), handle)
    except nvml.NVMLError:
        return []
    found = []
    for place in range(most[1] if mode and mode[1][0] and most else 0):
        with contextlib.suppress(nvml.NVMLError):  # an empty place
            instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place)
            found.append((instance, str(nvml.nvmlDeviceGetUUID(instance))))
    return found


def mig_instance(nvml: Any, handle: Any, uuid: str | None) -> tuple[Any, str] | None:
    """The MIG instance with this UUID, or the only one that there is; None without MIG, or where it cannot be told."""
    instances = mig_instances(nvml, handle)
    named = [found for found in instances if uuid is not None and _uuid_digits(found[1]) == _uuid_digits(uuid)]
    return named[0] if named else instances[0] if len(instances) == 1 else None


def nvml_index_of_uuid(uuid: str | bytes) -> int:
    """NVML's index of the GPU with this UUID.

    Args:
        uuid: "GPU-..." as NVML and nvidia-smi print it, with or without prefix and hyphens in
            either case, or the 16 bytes that CUDA gives. A MIG instance's ("MIG-...") stands for
            the GPU that it is part of.

    Raises:
        NoDriver: there is no NVIDIA driver to ask.
        LookupError: no GPU and no MIG instance has this UUID.
    """
    wanted = _uuid_digits(uuid)
    with _opened() as nvml:
        for index in range(nvml.nvmlDeviceGetCount()):
            # One lost GPU must not make the others unreachable.
            with contextlib.suppress(nvml.NVMLError):
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                uuids = [nvml.nvmlDeviceGetUUID(handle), *(uuid for _, uuid in mig_instances(nvml, handle))]
                if wanted in map(_uuid_digits, uuids):
                    return index
    raise LookupError(f"NVML sees no GPU with the UUID {uuid!r}.")


def _pci(identity: int) -> str:
    """NVML packs PCI identities as device << 16 | vendor."""
    return f"{identity & 0xFFFF:04x}:{identity >> 16 & 0xFFFF:04x}"


def _cuda(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def _mode(states: Any) -> str:
    """[current, pending] -> the current state."""
    return "enabled" if states[0] else "disabled"


_Row = tuple[str, str | None, tuple[str, ...], tuple[Any, ...], Callable[[Any], Any]]


def _rows(nvml: Any, handle: Any) -> list[_Row]:
    """(quantity, unit, functions newest first, arguments, conversion to SI) per claim."""
    device = (handle,)
    return [
        ("name", None, ("nvmlDeviceGetName",), device, str),
        (
            "pci.device_id",
            None,
            ("nvmlDeviceGetPciInfo",),
            device,
            lambda pci: _pci(pci.pciDeviceId),
        ),
        (
            "pci.subsystem_id",
            None,
            ("nvmlDeviceGetPciInfo",),
            device,
            lambda pci: _pci(pci.pciSubSystemId),
        ),
        ("uuid", None, ("nvmlDeviceGetUUID",), device, str),
        ("serial", None, ("nvmlDeviceGetSerial",), device, str),
        (
            "compute_capability",
            None,
            ("nvmlDeviceGetCudaComputeCapability",),
            device,
            lambda capability: f"{capability[0]}.{capability[1]}",
        ),
        ("count.core", "1", ("nvmlDeviceGetNumGpuCores",), device, int),
        (
            "memory.size",
            "B",
            ("nvmlDeviceGetMemoryInfo",),
            device,
            lambda memory: int(memory.total),
        ),
        ("memory.bus_width", "bit", ("nvmlDeviceGetMemoryBusWidth",), device, int),
        (
            "clock.sm.max",
            "Hz",
            ("nvmlDeviceGetMaxClockInfo",),
            (handle, nvml.NVML_CLOCK_SM),
            lambda mhz: mhz * 1_000_000,
        ),
        (
            "clock.memory.max",
            "Hz",
            ("nvmlDeviceGetMaxClockInfo",),
            (handle, nvml.NVML_CLOCK_MEM),
            lambda mhz: mhz * 1_000_000,
        ),
        (
            "power.limit",
            "W",
            ("nvmlDeviceGetPowerManagementLimit",),
            device,
            lambda milliwatt: milliwatt / 1000,
        ),
        (
            "power.default_limit",
            "W",
            ("nvmlDeviceGetPowerManagementDefaultLimit",),
            device,
            lambda milliwatt: milliwatt / 1000,
        ),
        (
            "temperature.slowdown",
            "degC",
            ("nvmlDeviceGetTemperatureThreshold",),
            (handle, nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN),
            int,
        ),
        ("ecc.mode", None, ("nvmlDeviceGetEccMode",), device, _mode),
        (
            "ecc.errors.uncorrected",
            "1",
            ("nvmlDeviceGetTotalEccErrors",),
            # nvml.h: NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC (since the driver was loaded)
            (handle, 1, 0),
            int,
        ),
        ("mig.mode", None, ("nvmlDeviceGetMigMode",), device, _mode),
        (
            "virtualization.mode",
            None,
            ("nvmlDeviceGetVirtualizationMode",),
            device,
            # nvml.h: nvmlGpuVirtualizationMode_t
            lambda mode: ("none", "passthrough", "vgpu", "host vgpu", "host vsga")[mode] if mode < 5 else str(mode),
        ),
        ("pcie.generation.current", "1", ("nvmlDeviceGetCurrPcieLinkGeneration",), device, int),
        ("pcie.generation.max", "1", ("nvmlDeviceGetMaxPcieLinkGeneration",), device, int),
        ("pcie.width.current", "1", ("nvmlDeviceGetCurrPcieLinkWidth",), device, int),
        ("pcie.width.max", "1", ("nvmlDeviceGetMaxPcieLinkWidth",), device, int),
        ("vbios.version", None, ("nvmlDeviceGetVbiosVersion",), device, str),
        ("driver.version", None, ("nvmlSystemGetDriverVersion",), (), str),
        (
            "driver.cuda_version",
            None,
            ("nvmlSystemGetCudaDriverVersion_v2", "nvmlSystemGetCudaDriverVersion"),
            (),
            _cuda,
        ),
    ]


def _nvlink_claims(nvml: Any, handle: Any) -> list[dict[str, Any]]:
    """NVLink as NVML claims it: links counted and active, speed per link in one direction (B/s). Absent: not said."""
    rows: list[dict[str, Any]] = []
    active = 0
    for link in range(getattr(nvml, "NVML_NVLINK_MAX_LINKS", 0)):
        # Links that a part does not have are "invalid argument", not "unsupported".
        with contextlib.suppress(nvml.NVMLError):
            answer = first_supported(nvml, ("nvmlDeviceGetNvLinkState",), handle, link)
            if answer is None:
                return rows
            active += int(answer[1] == 1)
    if active:
        source = "nvmlDeviceGetNvLinkState"
        rows.append({"quantity": "nvlink.count.active", "value": active, "unit": "1", "source": source})
    for quantity, name, unit, factor in (
        ("nvlink.count", "NVML_FI_DEV_NVLINK_LINK_COUNT", "1", 1),
        ("nvlink.speed", "NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON", "B/s", 1_000_000),
    ):
        with contextlib.suppress(nvml.NVMLError, AttributeError, IndexError):
            (field,) = nvml.nvmlDeviceGetFieldValues(handle, [getattr(nvml, name)])
            # Every numeric type of the union begins at the same byte; these two fields are unsigned 32 bits.
            if field.nvmlReturn == 0 and (value := int(field.value.uiVal)):
                rows.append({"quantity": quantity, "value": value * factor, "unit": unit, "source": name})
    return rows


def _mig_claims(nvml: Any, instance: Any, uuid: str, claims: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The GPU's claims, with those of its parts replaced by the instance's own: UUID, SMs and memory."""
    of_gpu = {claim["quantity"]: claim for claim in claims}
    rows = [claim for claim in claims if claim["quantity"] not in ("uuid", "memory.size", "count.core")]
    rows.append({"quantity": "uuid", "value": uuid, "unit": None, "source": "nvmlDeviceGetUUID"})
    if "uuid" in of_gpu:
        rows.append(of_gpu["uuid"] | {"quantity": "mig.gpu_uuid"})
    with contextlib.suppress(nvml.NVMLError):
        memory = first_supported(nvml, ("nvmlDeviceGetMemoryInfo",), instance)
        if memory is not None:
            rows.append({"quantity": "memory.size", "value": int(memory[1].total), "unit": "B", "source": memory[0]})
    with contextlib.suppress(nvml.NVMLError):
        answer = first_supported(nvml, ("nvmlDeviceGetAttributes_v2", "nvmlDeviceGetAttributes"), instance)
        if answer is not None:
            sms, size_bytes = int(answer[1].multiprocessorCount), int(answer[1].memorySizeMB) * 2**20
            rows.append({"quantity": "mig.count.sm", "value": sms, "unit": "1", "source": answer[0]})
            rows.append({"quantity": "mig.memory.size", "value": size_bytes, "unit": "B", "source": answer[0]})
    return rows


def config_claims(bus_id: str, root: Path = PCI_DEVICES) -> list[dict[str, Any]]:
    """PCI ids as the kernel read them from the device's configuration space, not through NVIDIA's driver.

    `bus_id` such as "00000000:01:00.0" names the device. Absent: not shown here, as in some containers.
    """
    domain, _, rest = bus_id.lower().partition(":")
    folder = root / f"{domain[-4:]}:{rest}"
    rows: list[dict[str, Any]] = []
    for quantity, vendor, device in (
        ("pci.config.device_id", "vendor", "device"),
        ("pci.config.subsystem_id", "subsystem_vendor", "subsystem_device"),
    ):
        with contextlib.suppress(OSError, ValueError):
            numbers = [int((folder / name).read_text(encoding="ascii"), 16) for name in (vendor, device)]
            value = ":".join(f"{number:04x}" for number in numbers)
            source = f"/sys/bus/pci/devices/*/{vendor}, {device}"
            rows.append({"quantity": quantity, "value": value, "unit": None, "source": source})
    return rows


def nvml_claims(index: int, uuid: str | None = None) -> list[dict[str, Any]]:
    """Everything that NVML claims about one GPU, or about one MIG instance of it.

    Args:
        index: NVML's index.
        uuid: the instance's UUID, where MIG is on; then ``uuid`` and ``memory.size`` are the
            instance's, ``mig.count.sm`` and ``mig.memory.size`` what its attributes promise.

    Returns:
        Rows {"quantity", "value", "unit", "source"}, ready for a record's ``device`` line: SI
        units, "bit" for the bus width, "1" for counts, None for names and modes.  What NVML does
        not give for this device is absent.  PCI identities read "vendor:device" in lower-case
        hex ("10de:2330"), modes "enabled" or "disabled".

    Raises:
        NoDriver: there is no NVIDIA driver to ask, or it cannot open this GPU.
        IndexError: NVML sees no GPU with this index.
    """
    with _opened() as nvml:
        count = nvml.nvmlDeviceGetCount()
        if not 0 <= index < count:
            raise IndexError(f"NVML sees {count} GPU(s), counted from 0: there is no GPU {index}.")
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
        except nvml.NVMLError as error:
            raise NoDriver(f"The NVIDIA driver cannot open GPU {index}: {error}.") from error
        claims: list[dict[str, Any]] = []
        for quantity, unit, names, args, convert in _rows(nvml, handle):
            # Not every failure is "unsupported" (a corrupted infoROM loses the serial number),
            # and none is worth a run: a missing claim shows as missing.
            with contextlib.suppress(nvml.NVMLError):
                answer = first_supported(nvml, names, *args)
                if answer is None:
                    continue
                value = convert(answer[1])
                if value != "":
                    claims.append({"quantity": quantity, "value": value, "unit": unit, "source": answer[0]})
        with contextlib.suppress(nvml.NVMLError, AttributeError):
            claims += config_claims(as_text(nvml.nvmlDeviceGetPciInfo(handle).busId))
        instance = mig_instance(nvml, handle, uuid)
        if instance is not None:
            claims = _mig_claims(nvml, *instance, claims)
        return claims + _nvlink_claims(nvml, handle)
