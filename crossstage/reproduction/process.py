"""Runs a training in a child process: only one at a time per folder; signals are forwarded to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import crossstage
from crossstage.errors import InputError

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows has no such locks; two commands in one folder are not detected there
    fcntl = None

# Each signal that stops us, and the signal that the training gets. After SIGHUP (a closed terminal) it saves too.
RELAYED: dict[int, signal.Signals] = {signal.SIGINT: signal.SIGINT, signal.SIGTERM: signal.SIGTERM}
if hasattr(signal, "SIGHUP"):  # not on Windows
    RELAYED[signal.SIGHUP] = signal.SIGTERM


@dataclass(frozen=True)
class Ended:
    """The end of a process: its exit status, the signal that stopped it (0: none), and one line about a failure."""

    status: int
    signal: int
    error: str


def run_child(arguments: Sequence[str], lock: int | None = None) -> Ended:
    """Run this Python interpreter in a child process until it ends.

    The child imports the same `crossstage` and writes to the same output. After the first Ctrl-C a training saves its
    state and stops; the second one stops it at once.

    Args:
        arguments: the command line without the interpreter.
        lock: the lock from `held`, which the child then holds too.
    """
    path = [str(Path(crossstage.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    received: list[int] = []
    with _handling_signals(received.append):
        # The child gets a new session. Otherwise Ctrl-C would reach it twice: from the terminal and from us.
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
            pass_fds=() if lock is None else (lock,),
        )
        last_lines: deque[str] = deque(maxlen=50)
        reader = threading.Thread(target=_copy, args=(process.stderr, last_lines), daemon=True)
        reader.start()
        sent = 0
        while process.poll() is None:
            time.sleep(0.1)
            for number in received[sent:]:
                process.send_signal(RELAYED[number])
                sent += 1
        reader.join(timeout=5)  # a process that runs longer than the training may keep the pipe open
    status = process.returncode
    number = status - 128 if status > 128 else -status  # a person or a scheduler may have stopped it, not us
    stopped_by = received[-1] if received else number * (number in (signal.SIGINT, signal.SIGTERM))
    return Ended(status, stopped_by, "" if status == 0 else error_line(list(last_lines), status))


def error_line(lines: list[str], status: int) -> str:
    """The report's line about a failure: the signal, or the last error line, or the last line, or the status."""
    if status < 0:
        return f"killed by {signal.Signals(-status).name}" + " (out of memory?)" * (status == -signal.SIGKILL)
    told = [f"ended with status {status} and without a message", *(line.strip() for line in lines if line.strip())]
    errors = [line for line in told if line.startswith("error: ")]
    return (errors or told)[-1].removeprefix("error: ")


@contextmanager
def held(folder: Path) -> Iterator[int | None]:
    """Inside, this process holds the lock of a folder, which is created if missing.

    Yields the lock for `run_child`, or None on Windows. A child that gets the lock keeps it, even if this process is
    killed. Raises InputError if another process holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield None
        return
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{folder}: another process works there; wait for it, or end it") from None
        yield file.fileno()


@contextmanager
def _handling_signals(note: Callable[[int], None]) -> Iterator[None]:
    """Inside, the signals of RELAYED call `note` and do nothing else."""
    previous = {number: signal.signal(number, lambda number, frame: note(number)) for number in RELAYED}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _copy(stream: Iterator[bytes], last_lines: deque[str]) -> None:
    """Write what a process prints to our stderr, and keep its last lines."""
    for line in stream:
        last_lines.append(line.decode(errors="replace"))
        sys.stderr.write(last_lines[-1])
        sys.stderr.flush()
