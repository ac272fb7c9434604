"""A training as a process of its own: one at a time in a folder, stopped by the signals that stop us."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from crossstage.errors import InputError

try:
    import fcntl
except ImportError:  # Windows: two tools in one folder are then not noticed
    fcntl = None

# What a signal to us becomes for the training: closing the terminal lets it save, too.
RELAYED = {
    getattr(signal, name): other
    for name, other in (("SIGINT", signal.SIGINT), ("SIGTERM", signal.SIGTERM), ("SIGHUP", signal.SIGTERM))
    if hasattr(signal, name)
}
LOCK = ".lock"


@dataclass(frozen=True)
class Ended:
    """status: the exit status, negative for a signal.  signal: what stopped it, 0 for none.  error: its last words."""

    status: int
    signal: int
    error: str


class Relay:
    """Inside `with`, signals are noted in `received` and sent on to `process`, as often as they come."""

    def __init__(self) -> None:
        self.received = 0
        self.process: subprocess.Popen | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Relay:
        for number in RELAYED:
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def attach(self, process: subprocess.Popen) -> None:
        """Send signals to `process` from now on, and the one that came before it was there."""
        self.process = process
        if self.received:
            process.send_signal(RELAYED[self.received])

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        if self.process is not None:
            self.process.send_signal(RELAYED[number])


def run_child(arguments: Sequence[str], lock: int | None = None) -> Ended:
    """Run this Python with `arguments` to its end; its output goes where ours goes.

    The first Ctrl-C lets a training save; a second one stops it at once. lock: of `held`, for the process to hold too.
    """
    with Relay() as relay:
        # A session of its own: Ctrl-C on the terminal would otherwise reach it from there and from us, which is twice.
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            pass_fds=() if lock is None else (lock,),
        )
        relay.attach(process)
        last_lines: deque[str] = deque(maxlen=50)
        reader = threading.Thread(target=_copy, args=(process.stderr, last_lines), daemon=True)
        reader.start()
        status = process.wait()
        reader.join(timeout=5)  # a process that outlives it may hold the pipe
    number = relay.received or _stopped_by(status)
    return Ended(status, number, "" if status == 0 else error_line(list(last_lines), status))


def error_line(lines: list[str], status: int) -> str:
    """What a report says of a failure: the signal, the last line that tells an error, the last line, the status."""
    if status < 0:
        return f"killed by {signal.Signals(-status).name}" + " (out of memory?)" * (status == -signal.SIGKILL)
    told = [line.strip() for line in lines if line.strip()]
    errors = [line for line in told if line.startswith("error: ")]
    return (errors or told or [f"error: ended with status {status} and no word"])[-1].removeprefix("error: ")


def _stopped_by(status: int) -> int:
    """The signal of an exit status if it is one that a person or a scheduler stops a training with, else 0."""
    number = status - 128 if status > 128 else -status
    return number if number in (signal.SIGINT, signal.SIGTERM) else 0


def _copy(stream: BinaryIO, last_lines: deque[str]) -> None:
    for line in stream:
        text = line.decode(errors="replace")
        last_lines.append(text)
        sys.stderr.write(text)
        sys.stderr.flush()


@contextmanager
def held(folder: Path) -> Iterator[int | None]:
    """Hold `folder`, made if it is not there; a process with the lock holds it on, even if we are killed.

    Raises InputError if another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield None
        return
    with (folder / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{folder}: another process is at work there; wait for it, or end it") from None
        yield file.fileno()
