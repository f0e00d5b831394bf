"""What the wheel holds, what no file may say, and what no source may call."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
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


def repository_files(*, links: bool = False) -> list[Path]:
    """Tracked files and new ones that are not ignored; skips the test outside a git checkout. `links`: with symbolic
    links."""
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
    return [path for path in paths if path.is_symlink() or path.is_file() if links or not path.is_symlink()]


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


def build(source: Path, out: Path) -> tuple[Path, Path]:
    """The wheel and the sdist of a source folder."""
    command = [sys.executable, "-m", "build", "--wheel", "--sdist", "--no-isolation", "--outdir", str(out), str(source)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


def test_two_builds_of_the_same_files_are_identical(tmp_path: Path) -> None:
    """Wheel and sdist, from two folders whose files have other times and permissions, and other files beside them."""
    outputs = []
    for number in (0, 1):
        folder = tmp_path / str(number) / "source"
        for path in repository_files(links=True):
            copy = folder / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy, follow_symlinks=False)
            if not copy.is_symlink():
                copy.chmod(0o600 + 0o44 * number + (path.stat().st_mode & 0o100))
                os.utime(copy, (1e9 + number, 1e9 + number))
        if number:
            (folder / "kernels" / "__pycache__").mkdir()
            (folder / "kernels" / "__pycache__" / "x.pyc").write_bytes(b"x")
            (folder / ".venv").mkdir()
            (folder / ".venv" / "x.py").write_bytes(b"x")
        outputs.append(build(folder, tmp_path / str(number) / "dist"))
    for one, other in zip(*outputs, strict=True):
        assert one.name == other.name
        assert one.read_bytes() == other.read_bytes(), one.name
    with tarfile.open(outputs[0][1]) as archive:
        assert any(name.endswith("/kernels/memory.cu") for name in archive.getnames())


def test_wheel_owns_one_name_and_holds_every_folder(tmp_path: Path) -> None:
    wheel, _ = build(ROOT, tmp_path)
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


def test_ci_installs_the_pinned_versions_by_their_hashes() -> None:
    """.ci/requirements.txt is made from constraints.txt (its header says how); both name the same versions."""
    text = (ROOT / ".ci" / "requirements.txt").read_text(encoding="utf-8")
    pin = re.compile(r"^([\w.-]+)(?:\[[\w,.-]+\])?==([^\s;]+)", re.MULTILINE)
    constraints = dict(pin.findall((ROOT / "constraints.txt").read_text(encoding="utf-8")))
    installed = dict(pin.findall(text))
    assert len(installed) > 100
    wrong = {name: version for name, version in installed.items() if constraints.get(name, version) != version}
    assert not wrong, f"other versions than constraints.txt has: {wrong}"
    # constraints.txt serves both CUDA versions, so it leaves open what differs between them; brotlicffi is PyPy's.
    assert installed.keys() - constraints.keys() <= {"brotlicffi", "cuda-bindings", "cuda-toolkit"}
    blocks = re.split(r"^(?=[\w])", text, flags=re.MULTILINE)[1:]
    assert [block.split()[0] for block in blocks if "--hash=sha256:" not in block] == []


def test_the_licence_of_every_pinned_package_is_listed() -> None:
    text = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| ([a-z0-9-]+) \| (\S.*) \|$", text, re.MULTILINE))
    pinned = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    names = {re.sub(r"[-_.]+", "-", name).lower() for name in pinned} | {"cuda-bindings", "cuda-toolkit"}
    assert listed.keys() - {"package"} == names
