"""Handles Ctrl-C, SIGTERM and the signals of batch systems: the run finishes its step, saves and stops."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

# SLURM sends SIGUSR1 (sbatch --signal) or SIGTERM before the end of a job, Grid Engine SIGUSR1, SIGUSR2 or SIGXCPU;
# SIGHUP comes from a closed terminal.
STOPPING = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGHUP")


class Interrupted(Exception):
    """A signal stopped a run after its state was saved; `status` is the exit status (128 + signal number)."""

    def __init__(self, message: str, *, number: int) -> None:
        super().__init__(message)
        self.status = 128 + number


@contextmanager
def ending_signals() -> Iterator[None]:
    """Inside, the signals of `STOPPING` but SIGINT raise Interrupted, so that the log can say how the run ended.

    After the first one, a signal ends the process at once again, even if Python code cannot run.
    """
    previous: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def end(number: int, frame: FrameType | None) -> None:
        restore()
        name = signal.Signals(number).name
        raise Interrupted(f"stopped at once by {name}; nothing was saved since the last checkpoint", number=number)

    numbers = [getattr(signal, name) for name in STOPPING if hasattr(signal, name) and name != "SIGINT"]
    if threading.current_thread() is threading.main_thread():
        for number in numbers:
            if signal.getsignal(number) is signal.SIG_DFL:
                previous[number] = signal.signal(number, end)
    try:
        yield
    finally:
        restore()


class StopSignals:
    """Inside `with`, the first signal of `STOPPING` is stored in `received`; a second one interrupts at once.

    Args:
        quiet: whether to print nothing; for all processes but the first.
        log: a file descriptor that also gets the line about the signal, or None.
    """

    def __init__(self, *, quiet: bool = False, log: int | None = None) -> None:
        self.received = 0
        self._quiet = quiet
        self._outputs = [2] if log is None else [2, log]
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in STOPPING if hasattr(signal, name)):
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore()
        if not self._quiet:
            # Written directly, because the signal may have interrupted the log in the middle of a line.
            name = signal.Signals(number).name
            for output in self._outputs:
                os.write(output, f"\n{name}: finishing this step, then saving; once more stops at once\n".encode())

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
