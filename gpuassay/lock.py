"""One run per GPU: a lock by the GPU's UUID, so that two runs of this program never measure each other.

The lock is flock(2) on a file, so it dies with its process however that ends: a file left behind is no lock and needs
no cleaning up. It binds the runs of one user on one machine; another user's run, or another program's, is seen by
telemetry instead (other processes on the GPU).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

__all__ = ["GpuBusy", "LockError", "directory", "hold"]


class LockError(Exception):
    """No lock can be taken here. One sentence: what, and what to do."""


class GpuBusy(LockError):
    """Another run holds the GPU.

    Attributes:
        pid: the holder's process id, None where it has not said it yet.
    """

    def __init__(self, uuid: str, pid: int | None) -> None:
        self.pid = pid
        who = "another run" if pid is None else f"another run (process {pid})"
        super().__init__(f"GPU {uuid} is being measured by {who}: wait for it to end, or choose another with --device")


def directory() -> Path:
    """Where the locks lie: gpuassay in the user's runtime directory (XDG Base Directory Specification), and where
    there is none, /tmp/gpuassay-<user id>."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime) and os.path.isdir(runtime):
        return Path(runtime) / "gpuassay"
    return Path("/tmp") / f"gpuassay-{os.getuid()}"


@contextlib.contextmanager
def hold(uuid: str) -> Iterator[Path]:
    """Holds the GPU with this UUID while the context is open; gives the lock file's path.

    Raises GpuBusy where another process holds it (nothing is waited for), LockError where the directory of the locks
    cannot be trusted or written.
    """
    place = directory()
    name = re.sub(r"[^0-9A-Za-z-]", "_", uuid)[:100] + ".lock"  # the UUID is the driver's text, not a path
    folder = _open_directory(place)
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            file = os.open(name, flags, 0o600, dir_fd=folder)
        except OSError as error:
            raise LockError(f"cannot open the lock {place / name} ({error.strerror}): remove it") from error
    finally:
        os.close(folder)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise LockError(f"the lock {place / name} is not a regular file: remove it")
        _lock(file, uuid)
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        yield place / name
    finally:
        os.close(file)  # the kernel lets the lock go with it


def _lock(file: int, uuid: str) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        said = os.pread(file, 20, 0).strip()
        raise GpuBusy(uuid, int(said) if said.isdigit() else None) from None
    except OSError as error:
        raise LockError(
            f"this file system takes no locks ({error.strerror}): set XDG_RUNTIME_DIR to one that does"
        ) from error


def _open_directory(place: Path) -> int:
    """The directory, made where missing, as a descriptor: what was checked is what is used."""
    try:
        with contextlib.suppress(FileExistsError):
            place.mkdir(mode=0o700)
        folder = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        why = "it is a link or no directory" if error.errno in (errno.ELOOP, errno.ENOTDIR) else error.strerror
        raise LockError(f"the directory of the locks, {place}, cannot be used ({why}): remove or mend it") from error
    found = os.fstat(folder)
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        os.close(folder)
        raise LockError(
            f"the directory of the locks, {place}, is open to others (owner {found.st_uid}, mode "
            f"{stat.S_IMODE(found.st_mode):o}): remove it, or make it yours alone with mode 700"
        )
    return folder
