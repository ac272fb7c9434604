"""The output folder: one process at a time works in it, it is checked early, and no earlier run is overwritten."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

from crossstage.errors import InputError

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows has no such locks; two commands in one folder are not detected there
    fcntl = None

logger = logging.getLogger("crossstage.engine")

# The files that a run writes. Pictures and other files in the folder are not moved.
RUN_FILES = (
    "metrics.json",
    "log.txt",
    "config.yaml",
    "config.yaml.pkl",
    "last_checkpoint",
    "model_*.pth",
    "events.out.tfevents.*",
    "results.json",
    "curves.png",
    "coco_instances_results.json",
    "failure",
    "report",
)
LOCK = ".lock"
_locks: set[int] = set()  # the locks that this process holds, as file descriptors


def prepare_folder(folder: Path) -> None:
    """Create `folder`. Raises InputError if this is not possible, or if it cannot be written to."""
    probe = folder / f".writable.{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"train.output_dir={folder}: not writable ({error.strerror}); choose another with train.output_dir=PATH"
        ) from error


def set_previous_run_aside(folder: Path) -> Path | None:
    """Move the files of an earlier run into a new folder previous_<time>/ inside `folder`.

    Returns the new folder, or None if there is no earlier run.
    """
    files = [path for pattern in RUN_FILES for path in sorted(folder.glob(pattern))]
    if not files:
        return None
    stamp = time.strftime("%Y%m%d_%H%M%S")
    aside = folder / f"previous_{stamp}"
    count = 1
    while aside.exists():
        count += 1
        aside = folder / f"previous_{stamp}_{count}"
    aside.mkdir()
    for path in files:
        path.rename(aside / path.name)
    return aside


def holds_training(folder: Path) -> bool:
    """Whether a training has written into `folder`."""
    return any(any(folder.glob(name)) for name in ("last_checkpoint", "metrics.json", "model_*.pth"))


@contextmanager
def held(folder: Path, name: str = LOCK) -> Iterator[int | None]:
    """Inside, this process holds the lock of a folder, which is created if missing.

    The lock ends with the process, however it ends. Forked processes, such as data workers, do not keep it.

    Args:
        folder: the folder.
        name: the file of the lock.

    Yields:
        The lock, which a child process may inherit to keep it, or None if the system has no such locks.

    Raises:
        InputError: if another process holds the lock; names it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    lock = None if fcntl is None else _locked(path)
    if lock is None:
        yield None
        return
    _locks.add(lock)
    try:
        yield lock
    finally:
        _locks.discard(lock)
        with suppress(OSError):  # a folder that has become read-only must not hide the error that this caused
            path.unlink()  # before the lock is released: nobody can have locked the file in between
        os.close(lock)


def _locked(path: Path) -> int | None:
    """Lock a file and write our number into it; None if the file system has no locks."""
    assert fcntl is not None
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(lock, 20).decode(errors="replace").strip() or "unknown"
            os.close(lock)
            raise InputError(
                f"{path.parent}: in use by process {owner}; wait for it, end it, or choose another folder "
                "(train.output_dir=PATH)"
            ) from None
        except OSError:
            os.close(lock)
            return None
        if path.exists() and os.stat(path).st_ino == os.fstat(lock).st_ino:
            os.ftruncate(lock, 0)
            os.write(lock, f"{os.getpid()}\n".encode())
            return lock
        os.close(lock)  # its former owner has just removed the file


def _close_locks() -> None:
    for lock in _locks:
        os.close(lock)
    _locks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_locks)
