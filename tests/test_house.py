"""What the wheel holds, what no file may say, and what no source may call."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Written so that this file does not match itself.
FORBIDDEN_TEXT = {
    "an absolute path of one machine": re.compile(r"(?<![\w.~-])/wor[k]/"),
    "a package registry's address": re.compile(
        r"py[p]i\.org|pythonhoste[d]\.org|py[p]i\.nvidia\.com|conda\.anacond[a]\.org|https?://[^\s'\"]*/simpl[e]\b"
    ),
}
# gpuassay observes; it never changes a GPU's settings. Neither NVML's setters nor nvidia-smi's switches appear.
SETTERS = re.compile(
    r"nvmlDevice(Set|Reset|Freeze|Clear|Modify)"
    r"|--(lock|reset)-(gpu|memory)-clocks|--gpu-reset|--power-limit|--persistence-mode|--applications-clocks"
    r"|[\"'\s]-(pl|pm|lgc|lmc|rgc|rmc|ac|rac|mig)[\"'\s]"
)


def repository_files() -> list[Path]:
    """Tracked files and new ones that are not ignored; skips the test outside a git checkout."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    paths = [ROOT / name for name in listed.split("\0") if name]
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def text_of(path: Path) -> str:
    """The file's text, or nothing for a binary file."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


def findings(pattern: re.Pattern[str], paths: list[Path]) -> list[str]:
    """Every line that matches, as path:line: text."""
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:160]}"
        for path in paths
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if pattern.search(line)
    ]


def test_wheel_owns_one_name_and_holds_every_folder(tmp_path: Path) -> None:
    built = subprocess.run(
        [
            *(sys.executable, "-m", "build", "--wheel", "--no-isolation"),
            *("--outdir", str(tmp_path), str(ROOT)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
        metadata = archive.read(f"gpuassay-{version}.dist-info/METADATA").decode()
    assert {name.split("/")[0] for name in names} == {"gpuassay", f"gpuassay-{version}.dist-info"}
    assert "License-Expression: Apache-2.0" in metadata

    expected = {
        f"gpuassay/{inside}/{path.name}"
        for inside, pattern in (
            ("kernels", "*.cu"),
            ("kernels", "*.cuh"),
            ("kernels", "*.py"),
            ("suites", "*.py"),
            ("sheets", "*.toml"),
            ("reference", "*.jsonl"),
        )
        for path in (ROOT / "gpuassay" / inside).glob(pattern)
    }
    for folder in ("kernels", "suites", "sheets", "reference"):
        assert any(name.startswith(f"gpuassay/{folder}/") for name in expected), folder
    assert any(name.endswith(".cu") for name in expected)
    assert expected <= names
    assert not [name for name in names if "__pycache__" in name]


@pytest.mark.parametrize("inside", ["kernels", "suites", "reference"])
def test_folder_inside_the_package_is_a_relative_link(inside: str) -> None:
    link = ROOT / "gpuassay" / inside
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    assert link.is_symlink()
    assert not link.readlink().is_absolute()
    assert link.is_dir()


@pytest.mark.parametrize("what", FORBIDDEN_TEXT)
def test_no_file_mentions(what: str) -> None:
    assert findings(FORBIDDEN_TEXT[what], repository_files()) == []


def test_constraints_are_names_and_versions_only() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins
    assert [pin for pin in pins if not re.fullmatch(r"[a-z0-9.-]+==[0-9][A-Za-z0-9.]*", pin)] == []
    names = [pin.split("==")[0] for pin in pins]
    assert len(names) == len(set(names))


def test_no_source_changes_a_gpu_setting() -> None:
    sources = [
        path
        for path in repository_files()
        if path.relative_to(ROOT).parts[0] in {"gpuassay", "kernels", "suites", "Makefile", ".ci"}
    ]
    assert sources
    assert findings(SETTERS, sources) == []


@pytest.mark.parametrize(
    "line",
    ["pynvml.nvmlDeviceSetPowerManagementLimit(h, 1)", '["nvidia-smi", "-pl", "300"]', "x --lock-gpu-clocks=1"],
)
def test_setter_pattern_sees(line: str) -> None:
    assert SETTERS.search(line)
