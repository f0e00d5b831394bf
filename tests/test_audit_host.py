"""Facts about the host: what is there, what is refused and by which call, and no verdict of any."""

from __future__ import annotations

import json
import subprocess
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpuassay.audit import Row
from gpuassay.audit.host import attestation, engines, flavour, missing_conditions, rows

OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\nGCC version: 12\n"


def by_check(found: list[Row]) -> dict[str, Row]:
    return {row.check: row for row in found}


def refuse(_: list[str]) -> str:
    raise FileNotFoundError("modinfo")


@pytest.fixture
def host(tmp_path: Path) -> Path:
    for name, text in {
        "proc/driver/nvidia/version": OPEN,
        "proc/12/comm": "nv-hostengine\n",
        "proc/13/comm": "bash\n",
        "lib/firmware/nvidia/580.65.06/gsp_ga10x.bin": "firmware",
        "usr/lib/x86_64-linux-gnu/libcuda.so.580.65.06": "driver",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_facts_of_a_host(host: Path) -> None:
    found = by_check(rows(host, lambda arguments: f"{arguments[2]} of it\n"))
    assert found["driver flavour"].claim == "open"
    assert found["module signature"].claim == "signer of it"
    assert found["vendor agents"].claim == "nv-hostengine"
    hashes = found["GSP firmware files"].details["sha256"]
    assert hashes == {"/lib/firmware/nvidia/580.65.06/gsp_ga10x.bin": sha256(b"firmware").hexdigest()}
    assert {row.verdict for row in found.values()} == {"not observable"}


def test_sockets_of_agents_as_far_as_this_user_may_see_them(host: Path) -> None:
    (host / "proc/net").mkdir()
    (host / "proc/net/unix").write_text(
        "Num RefCount Protocol Flags Type St Inode Path\n"
        "0: 00000002 00000000 00010000 0001 01 111 /run/nvidia-persistenced/socket\n"
        "0: 00000002 00000000 00010000 0001 01 112 /tmp/engine\n"
        "0: 00000002 00000000 00010000 0001 01 113 /run/dbus\n"
        "0: 00000002 00000000 00000000 0002 01 114\n"
    )
    (host / "proc/net/tcp").write_text(
        "  sl  local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode\n"
        "   0: 0100007F:15BE 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 222 1 0\n"
        "   1: 0100007F:15BF 0100007F:0001 01 00000000:00000000 00:00000000 00000000 0 0 223 1 0\n"
    )
    folder = host / "proc/12/fd"
    folder.mkdir()
    for number, target in enumerate(("socket:[112]", "socket:[222]", "socket:[223]", "/dev/null")):
        (folder / str(number)).symlink_to(target)
    found = by_check(rows(host, refuse))["vendor agents"]
    assert found.details["sockets"] == [
        "nv-hostengine: tcp 5566",
        "nv-hostengine: unix /tmp/engine",
        "unix /run/nvidia-persistenced/socket",
    ]


def test_missing_conditions_of_attestation_are_named(tmp_path: Path) -> None:
    nvml = SimpleNamespace(NVMLError=OSError, nvmlSystemGetConfComputeState=lambda: SimpleNamespace(ccFeature=0))
    missing = missing_conditions(tmp_path, nvml)
    assert len(missing) == 2
    text = attestation(missing=missing).text
    assert "no guest of TDX or SEV-SNP" in text
    assert "confidential-computing mode is off (nvmlSystemGetConfComputeState)" in text
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/sev-guest").touch()
    assert missing_conditions(tmp_path) == []
    assert "is not told" in missing_conditions(tmp_path, SimpleNamespace(NVMLError=OSError))[0]


def test_a_bare_host_passes_nothing(tmp_path: Path) -> None:
    found = by_check(rows(tmp_path, refuse))
    assert found["driver flavour"].verdict == "not supported"
    assert "/proc/driver/nvidia/version" in found["driver flavour"].text
    assert found["module signature"].text.startswith("modinfo nvidia")
    assert found["driver files"].verdict == "not tested"
    assert not {"consistent", "inconsistent"} & {row.verdict for row in found.values()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (OPEN, "open"),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue", "proprietary"),
        ("", "unknown"),
        ("Open Kernel Module", "unknown"),
    ],
)
def test_flavour(text: str, expected: str) -> None:
    assert flavour(text) == expected


def test_engines_say_which_call_refused() -> None:
    class NVMLError(Exception):
        pass

    def denied(*_: Any) -> Any:
        raise NVMLError("Insufficient Permissions")

    nvml = SimpleNamespace(NVMLError=NVMLError, nvmlDeviceGetEncoderCapacity=lambda *_: 100)
    nvml.nvmlDeviceGetGspFirmwareVersion = lambda _: b"580.65.06"  # nvidia-ml-py decodes the others only
    nvml.nvmlDeviceGetGpuInstanceProfileInfo = denied
    found = by_check(engines(nvml, None))
    assert found["encoder capacity"].claim == 100
    assert found["gsp.version"].claim == "580.65.06"
    assert found["engines"].verdict == "not permitted"
    assert "nvmlDeviceGetGpuInstanceProfileInfo" in found["engines"].text
    assert found["confidential computing state"].verdict == "not supported"


def test_the_engines_are_those_of_the_whole_part() -> None:
    pynvml = pytest.importorskip("pynvml")
    names = ("multiprocessorCount", "copyEngineCount", "decoderCount", "encoderCount", "jpegCount", "ofaCount")

    def profile(_: Any, number: int) -> Any:
        whole = number == pynvml.NVML_GPU_INSTANCE_PROFILE_7_SLICE
        return SimpleNamespace(**dict.fromkeys(names, 7 if whole else 1))

    nvml = SimpleNamespace(
        NVMLError=pynvml.NVMLError,
        NVML_GPU_INSTANCE_PROFILE_7_SLICE=pynvml.NVML_GPU_INSTANCE_PROFILE_7_SLICE,
        nvmlDeviceGetGpuInstanceProfileInfo=profile,
    )
    assert by_check(engines(nvml, None))["engines"].details == dict.fromkeys(names, 7)


def test_attestation_is_never_a_failure(tmp_path: Path) -> None:
    def verifier(arguments: list[str]) -> str:
        assert arguments[1:4] == ["collect-evidence", "--device", "gpu"]
        assert len(bytes.fromhex(arguments[5])) == 32
        return json.dumps({"evidences": [{"arch": "HOPPER", "certificate": "secret"}], "result_code": 0})

    def failing(_: list[str]) -> str:
        raise subprocess.SubprocessError("CC mode is off")

    row = attestation(tmp_path / "evidence.json", verifier, "nvattest")
    assert (row.verdict, row.claim) == ("not observable", "HOPPER")
    assert "secret" not in str(row.line())
    assert "secret" in (tmp_path / "evidence.json").read_text()
    assert attestation(None, failing, "nvattest").verdict == "not supported"
    assert "CC mode is off" in attestation(None, failing, "nvattest").text
    assert attestation(None, lambda _: "[]", "nvattest").verdict == "not supported"
