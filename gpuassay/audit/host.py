"""What stands on the host: driver, firmware files, agents, engines, attestation. Facts for the report, no verdicts.

Every look is guarded: what this user may not see is `not permitted`, with its name. No network is contacted, nothing is
written but the evidence file that a verifier gives.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..claims import as_text
from . import Row, Word

CONFIDENTIAL = "confidential computing state"
VERSION_FILE = "proc/driver/nvidia/version"
DRIVER_FILES = (
    "usr/lib/*/libcuda.so.*.*",
    "usr/lib64/libcuda.so.*.*",
    "usr/lib/*/libnvidia-ml.so.*.*",
    "usr/lib64/libnvidia-ml.so.*.*",
    "lib/modules/*/*/nvidia.ko*",
    "lib/modules/*/*/*/*/nvidia.ko*",
)
FIRMWARE_FILES = ("lib/firmware/nvidia/*/gsp*.bin",)
# Programs of the vendor that report or manage GPUs, as /proc shows them (15 characters at most).
AGENTS = ("nv-hostengine", "fleetint", "fleetintd", "nvidia-persiste", "nv-fabricmanage", "nvidia-smi", "dcgm-exporter")
AGENT_SOCKETS = re.compile("nvidia|nv-hostengine|dcgm|fleetint", re.IGNORECASE)
# Devices by which a guest asks for its attestation (Linux: Documentation/virt/coc).
GUESTS = {"TDX": "dev/tdx_guest", "SEV-SNP": "dev/sev-guest"}
TIMEOUT_S = 60
Command = Callable[[list[str]], str]


def rows(root: Path = Path("/"), command: Command | None = None, nvml: Any = None, handle: Any = None) -> list[Row]:
    """Every fact; `root` and `command` are for tests."""
    command = command or _command
    found = [_flavour(root), _signature(command), _agents(root)]
    found += [_files("driver files", root, DRIVER_FILES), _files("GSP firmware files", root, FIRMWARE_FILES)]
    return found + (engines(nvml, handle) if nvml else [])


def _fact(check: str, value: Any, text: str, details: dict[str, Any] | None = None) -> Row:
    return Row(check, "not observable", text, value, details=details or {})


def _refused(check: str, call: str, error: Exception | str, word: Word = "not supported") -> Row:
    if isinstance(error, PermissionError) or "ermission" in str(error):
        word = "not permitted"
    return Row(check, word, f"{call}: {error}.")


def flavour(version: str) -> str:
    """ "open" or "proprietary", from the text of /proc/driver/nvidia/version; "unknown" where it says neither."""
    first = version.partition("\n")[0]
    if not first.startswith("NVRM version:"):
        return "unknown"
    return "open" if "Open Kernel Module" in first else "proprietary"


def _flavour(root: Path) -> Row:
    try:
        text = (root / VERSION_FILE).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return _refused("driver flavour", f"/{VERSION_FILE}", error.strerror or "unreadable")
    said = f"/{VERSION_FILE} was read: what is loaded, not what it does."
    return _fact("driver flavour", flavour(text), said, {"version": text.partition("\n")[0][:200]})


def _signature(command: Command) -> Row:
    try:
        found = {name: command(["modinfo", "-F", name, "nvidia"]).strip() for name in ("signer", "version", "license")}
    except (OSError, subprocess.SubprocessError) as error:
        return _refused("module signature", "modinfo nvidia", error)
    said = "modinfo read the installed module's file; the loaded one may be another."
    return _fact("module signature", found["signer"] or "unsigned", said, found)


def _files(check: str, root: Path, patterns: Iterable[str]) -> Row:
    hashes: dict[str, str] = {}
    for path in sorted({path for pattern in patterns for path in root.glob(pattern) if not path.is_symlink()}):
        try:
            with path.open("rb") as file:
                digest = sha256()
                while block := file.read(2**20):
                    digest.update(block)
            hashes["/" + str(path.relative_to(root))] = digest.hexdigest()
        except OSError as error:
            hashes["/" + str(path.relative_to(root))] = f"not permitted: {error.strerror}"
    if not hashes:
        return Row(check, "not tested", "None was found in the usual places; a container may hide the host's files.")
    said = "SHA-256 of what is installed here; it does not show what runs inside the chip."
    return _fact(check, len(hashes), said, {"sha256": hashes})


def _agents(root: Path) -> Row:
    names: dict[Path, str] = {}
    for path in root.glob("proc/[0-9]*/comm"):
        with contextlib.suppress(OSError):  # it ended, or belongs to someone whom this user may not look at
            name = path.read_text(encoding="utf-8", errors="replace").strip()
            if name in AGENTS:
                names[path.parent] = name
    said = (
        "Process names and sockets that this user may see; a container hides the host's, and which sockets belong to a "
        "process of somebody else's shows to root only."
    )
    shown = ", ".join(sorted(set(names.values()))) or "none seen"
    details = {"agents": sorted(names.values()), "sockets": sorted(_sockets(root, names))}
    return _fact("vendor agents", shown, said, details)


def _sockets(root: Path, agents: dict[Path, str]) -> set[str]:
    """Unix sockets whose path names a vendor's agent, and what the agents' own descriptors show: "AGENT: unix PATH",
    "AGENT: tcp PORT" (listening), or "AGENT: not permitted"."""
    unix: dict[str, str] = {}
    listening: dict[str, str] = {}
    for name in ("unix", "tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (root / "proc/net" / name).read_text(encoding="utf-8", errors="replace").splitlines()[1:]:
                fields = line.split()
                if name == "unix" and len(fields) > 7:  # proc(5): number, inode and path are fields 1, 7 and 8
                    unix[fields[6]] = fields[7]
                elif name != "unix" and len(fields) > 9 and fields[3] == "0A":  # TCP_LISTEN
                    listening[fields[9]] = str(int(fields[1].rpartition(":")[2], 16))
    found = {f"unix {path}" for path in unix.values() if AGENT_SOCKETS.search(path)}
    for folder, name in agents.items():
        try:
            links = [str(link.readlink()) for link in (folder / "fd").iterdir()]
        except OSError as error:
            found.add(f"{name}: {'not permitted' if isinstance(error, PermissionError) else error.strerror}")
            continue
        inodes = {match[1] for link in links if (match := re.fullmatch(r"socket:\[(\d+)\]", link))}
        found |= {f"{name}: unix {unix[inode]}" for inode in inodes & unix.keys()}
        found |= {f"{name}: tcp {listening[inode]}" for inode in inodes & listening.keys()}
    return found


# -- what the driver says of the part -------------------------------------------------------------------------


def engines(nvml: Any, handle: Any) -> list[Row]:
    """Engine counts and confidential computing, by calls that may not be supported."""
    whole = getattr(nvml, "NVML_GPU_INSTANCE_PROFILE_7_SLICE", 4)  # the instance that is all of the part
    asked: tuple[tuple[str, str, tuple[Any, ...], Callable[[Any], Any]], ...] = (
        ("engines", "nvmlDeviceGetGpuInstanceProfileInfo", (handle, whole), _profile),
        ("encoder capacity", "nvmlDeviceGetEncoderCapacity", (handle, 0), int),
        ("confidential computing capability", "nvmlSystemGetConfComputeCapabilities", (), _fields),
        (CONFIDENTIAL, "nvmlSystemGetConfComputeState", (), _fields),
        ("inforom.version", "nvmlDeviceGetInforomImageVersion", (handle,), as_text),
        ("gsp.version", "nvmlDeviceGetGspFirmwareVersion", (handle,), as_text),
    )
    found = []
    for check, call, arguments, convert in asked:
        try:
            value = convert(getattr(nvml, call)(*arguments))
        except (nvml.NVMLError, AttributeError, TypeError) as error:
            found.append(_refused(check, call, error))
            continue
        details = value if isinstance(value, dict) else {}
        shown = ", ".join(f"{name} {item}" for name, item in value.items()) if details else value
        found.append(_fact(check, shown, f"{call} said so; nothing here can check it.", details))
    return found


def _profile(info: Any) -> dict[str, int]:
    names = ("multiprocessorCount", "copyEngineCount", "decoderCount", "encoderCount", "jpegCount", "ofaCount")
    return {name: int(getattr(info, name)) for name in names}


def _fields(structure: Any) -> dict[str, int]:
    fields = getattr(structure, "_fields_", ())
    return {name: int(value) for name, _ in fields if isinstance(value := getattr(structure, name), int)}


# -- attestation ----------------------------------------------------------------------------------------------


def missing_conditions(root: Path = Path("/"), nvml: Any = None) -> list[str]:
    """What Hopper's attestation needs and this machine does not show; empty where nothing is known to be missing."""
    missing = []
    if not any((root / place).exists() for place in GUESTS.values()):
        missing.append(f"no guest of {' or '.join(GUESTS)} (/{', /'.join(GUESTS.values())})")
    if nvml is not None:
        call = "nvmlSystemGetConfComputeState"
        try:
            if not getattr(nvml, call)().ccFeature:
                missing.append(f"confidential-computing mode is off ({call})")
        except (nvml.NVMLError, AttributeError) as error:
            missing.append(f"confidential-computing mode is not told ({call}: {error})")
    return missing


def attestation(
    evidence_file: Path | None = None,
    command: Command | None = None,
    found: str | None = None,
    missing: Iterable[str] = (),
) -> Row:
    """Evidence with a nonce of our own, by NVIDIA's `nvattest` where it is installed; never a failure of the part.

    `missing` as missing_conditions gives it. The evidence goes to `evidence_file` (a new file); the row has its SHA-256
    only, since certificates identify a board. Appraising it asks servers of the vendor, so that is left to whoever
    holds the file.
    """
    check = "attestation"
    program = found or shutil.which("nvattest")
    needs = "It needs confidential-computing mode, in a virtual machine with TDX or SEV-SNP, or Blackwell and root"
    needs += "".join(f"; missing here: {condition}" for condition in missing) + "."
    if program is None:
        return Row(check, "not tested", f"No verifier is installed (nvattest). {needs}")
    nonce = secrets.token_hex(32)
    try:
        text = (command or _command)([program, "collect-evidence", "--device", "gpu", "--nonce", nonce])
        document = json.loads(text)
        architectures = [str(item.get("arch"))[:40] for item in document["evidences"]]
        if evidence_file is not None:
            with evidence_file.open("x", encoding="utf-8") as file:
                file.write(text)
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError, AttributeError) as error:
        return Row(check, "not supported", f"nvattest collect-evidence gave no evidence ({error}). {needs}")
    said = (
        "Evidence was collected with our nonce and not appraised: that asks the vendor's servers. Its certificates "
        "name a die family, not a product, and speak for the vendor's signature, not for the vendor."
    )
    details = {"nonce": nonce, "sha256": sha256(text.encode()).hexdigest(), "architectures": architectures}
    return Row(check, "not observable", said, ", ".join(architectures), details=details)


def _command(arguments: list[str]) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode:
        raise subprocess.SubprocessError((done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1][:200])
    return done.stdout
