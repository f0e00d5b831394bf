"""The main job: run the suites on a GPU in a process of their own, read their record, judge it.

The suites run under pytest in a child process, so a crash in a driver or kernel costs the run, not the report: what
the record holds by then is judged, and headed incomplete.
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from . import record, resume, sheets, supervise
from .decision import Rule
from .exit_codes import NO_GPU
from .verdict import Judgement, judge

PROFILES = {
    "quick": "the headline metrics, under a minute",
    "standard": "every metric, under four minutes",
    "full": "and sustained rates, power and energy, about seven minutes",
    "audit": "the headline metrics and the honesty audit, about fifteen minutes",
}

# By markers of the suites.
SELECTED = {
    "quick": "quick",
    "standard": "not full and not thorough",
    "full": "not thorough",
    "audit": "quick or audit or claims",
}


# A lab's settings must not change a measurement: pytest's, Numba's and CuPy's own (a simulator, code for debugging,
# another stream, a limit to memory), and CUDA's that change how work is launched and what is loaded (CUDA Programming
# Guide, "CUDA Environment Variables"; cuda-python's "Environment Variables") or the clocks (release notes of driver
# 580.105.08). Where a driver or a header lies is no such setting.
SETTINGS = (
    *("PYTEST_", "NUMBA_", "CUPY_", "CUDA_PYTHON_", "CUDA_FORCE_", "CUDA_DISABLE_"),
    *("CUDA_LAUNCH_BLOCKING", "CUDA_DEVICE_MAX_CONNECTIONS", "CUDA_SCALE_LAUNCH_QUEUES"),
)
WHERE = ("NUMBA_CUDA_DRIVER", "NUMBA_CUDA_INCLUDE_PATH")


class VerifyError(Exception):
    """The run could not be made. One sentence: what, and what to do."""


class NoUsableGpu(Exception):
    """CUDA refused the device. The suites have said why on standard error."""


def measure(
    *,
    device: int,
    profile: str,
    out: Path,
    part: str,
    pytest_arguments: tuple[str, ...] = (),
    resumed: Path | None = None,
) -> Path:
    """Runs the suites of `profile` on CUDA device `device`; returns the record's path.

    With `resumed`, the record of a run that was cut off, only what that lacks is measured; the new record has both.

    The record lies in `out` (made where missing) beside a .log of what pytest printed. Progress goes to standard
    error. Raises VerifyError where `out` cannot be written or no record was begun, NoUsableGpu where CUDA refused.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        run_id = record.new_run_id()
        path = record.new_record_path(out, part, run_id)
        log = path.with_suffix(".log").open("x", encoding="utf-8")
    except OSError as error:
        raise VerifyError(f"cannot write to {out}: {error.strerror}; choose another directory with --out") from error
    command = [
        sys.executable,
        "-P",  # a file of the working directory that is called cuda.py or statistics.py is not meant
        "-m",
        "pytest",
        str(files("gpuassay").joinpath("suites")),
        # Only what the suites need: a lab's own plugins and settings must not change a measurement.
        "-p",
        "pytest_benchmark.plugin",
        "-p",
        "gpuassay.plugin",
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
        "--rootdir",
        str(files("gpuassay")),
        "--import-mode=importlib",
        "--capture=no",
        "-ra",
        f"--gpuassay-record={path}",
        f"--gpuassay-device={device}",
        f"--gpuassay-profile={profile}",
        f"--gpuassay-run-id={run_id}",
        "-m",
        SELECTED[profile],
        *pytest_arguments,
    ]
    environment = {k: v for k, v in os.environ.items() if k in WHERE or not k.startswith(SETTINGS)}
    environment |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "CUDA_MODULE_LOADING": "EAGER"}
    # Machine code is loaded from these: nobody else may write there.
    environment |= dict.fromkeys(("CUPY_CACHE_DIR", "NUMBA_CACHE_DIR"), str(private_cache()))
    with log:
        if resumed is not None:
            _begin(resumed, path, run_id)
        status = supervise.run(command, path, log, environment)
    if resumed is not None and status == NO_GPU:
        path.unlink()  # it holds only what the old record holds
        raise NoUsableGpu
    if not path.exists():
        if status == NO_GPU:
            raise NoUsableGpu
        tail = log_tail(Path(log.name))
        raise VerifyError(f"the suites ended (exit {status}) before a record was begun: {tail}")
    return path


def private_cache() -> Path:
    """A folder that only this user can read or write: gpuassay in the user's cache directory (XDG Base Directory
    Specification), or a new temporary one where that is not to be had."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        folder = (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "gpuassay"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid():
            folder.chmod(0o700)
            return folder
    except (OSError, RuntimeError):  # no home, or one that cannot be written
        pass
    return Path(tempfile.mkdtemp(prefix="gpuassay-"))


def profile_to_resume(path: Path) -> str:
    """The profile of a run that can be resumed. Raises record.RecordError, VerifyError."""
    try:
        profile = resume.resumable(path).run["profile"]
    except resume.ResumeError as error:
        raise VerifyError(str(error)) from error
    if profile not in PROFILES:
        raise VerifyError(f"{path} was made with no profile of this program ({profile!r:.40}): measure anew")
    return str(profile)


def _begin(resumed: Path, path: Path, run_id: str) -> None:
    try:
        resume.begin(resumed, path, run_id)
    except resume.ResumeError as error:
        raise VerifyError(str(error)) from error


def log_tail(log: Path) -> str:
    """The line of a pytest log that says most: the first error, or the last line."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line.removeprefix("E ").strip() for line in lines if line.startswith("E ")]
    return (errors or lines or ["nothing was printed"])[-1] + f" (all of it: {log})"


def judge_record(path: Path, against: str | None, rule: Rule | None = None) -> Judgement:
    """Reads a record and judges it by `rule` against the named sheet, or against that of its PCI id.

    Raises record.RecordError, sheets.SheetError.
    """
    taken = record.read(path)
    choice = choose(taken)
    chosen = choose_sheet(choice, against)
    if against is None:
        return judge(taken, chosen, choice.evidence, choice.contradictions, rule)
    contradictions = list(choice.contradictions)
    if choice.sheet is not None and choice.sheet.name != chosen.name:
        shows = f"this is no {chosen.name}: what the device shows fits the {choice.sheet.name} sheet"
        belied = f"PCI id: that of the {choice.sheet.name} sheet, not of {chosen.name}"
        contradictions.append(shows if choice.silicon_agrees else belied)
    why = f"named by --against; the device itself shows: {'; '.join(choice.evidence)}"
    return judge(taken, chosen, (why,), contradictions, rule)


def choose_sheet(choice: sheets.Choice, against: str | None) -> sheets.Sheet:
    """The named sheet, or the chosen one. Raises sheets.SheetError where none was."""
    if against is not None:
        return sheets.load(against)
    if choice.sheet is None:
        why = "; ".join(line for line in choice.evidence if not line.endswith((": agrees", ": decides nothing")))
        raise sheets.SheetError(
            f"no shipped sheet fits this device ({why}); choose one with --against "
            "(`gpuassay sheets` lists them, `gpuassay identify` says which silicon this is)"
        )
    return choice.sheet


def choose(taken: record.Record) -> sheets.Choice:
    """What the record's device shows of itself, held against the shipped sheets. Of an instance or a virtual GPU, what
    is not the whole part's is left out."""
    claims = taken.claims
    sms = None if taken.mig else claims.get("count.sm")
    memory = None if taken.mig or taken.vgpu else claims.get("memory.size") or claims.get("cuda.memory.size")
    return sheets.choose(
        pci_device_id=claims.get("pci.device_id"),
        sm_count=None if sms is None else int(sms),
        compute_capability=claims.get("compute_capability") or claims.get("cuda.compute_capability"),
        memory_bytes=None if memory is None else int(memory),
        name=claims.get("name") or claims.get("cuda.name"),
    )


def record_path(name: str) -> Path:
    """The record that a user named: a file, or with 'reference' the shipped one. Raises VerifyError like
    `reference_record`."""
    return reference_record() if name == "reference" else Path(name)


def reference_record() -> Path:
    """The shipped recording to show: one with samples before one without, then the newest.

    Raises VerifyError where none is shipped.
    """
    found = list(Path(str(files("gpuassay").joinpath("reference"))).glob("*.jsonl"))
    if not found:
        raise VerifyError("this installation ships no reference recording")

    def merit(path: Path) -> tuple[bool, str]:
        run = record.read(path).run
        return run["samples"] == "kept", run["started"]

    return max(found, key=merit)
