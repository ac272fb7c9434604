"""Messages between the processes of a run, other than gradients. With one process nothing is sent."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from torch import Tensor, distributed

from crossstage.errors import InputError, NonFiniteError

Result = TypeVar("Result")
Failure = InputError | NonFiniteError  # errors that the processes tell each other


class Processes:
    """The processes of this run. They exchange messages over a separate channel on the CPU, so that no GPU waits."""

    def __init__(self) -> None:
        self.rank, self.count = 0, 1
        self._group = None
        if distributed.is_available() and distributed.is_initialized():
            self.rank, self.count = distributed.get_rank(), distributed.get_world_size()
        if self.count > 1:
            self._group = distributed.new_group(backend="gloo")

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def largest(self, *values: int) -> list[int]:
        """Element-wise maximum over the processes."""
        if self.count == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.int64)
        distributed.all_reduce(tensor, distributed.ReduceOp.MAX, group=self._group)
        return tensor.tolist()

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, by rank, on every process."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value, group=self._group)
        return values

    def from_first(self, value: Any) -> Any:
        """Return the value of the first process on every process."""
        if self.count == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, src=0, group=self._group)
        return values[0]

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors in place by those of the first process, such as running means, which differ."""
        if self.count > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, src=0)

    def shared(self, error: Failure | None, *flags: int) -> tuple[Failure | None, list[int]]:
        """Tell all processes about the error of one.

        Otherwise, after an InputError or NonFiniteError of one process, the others would wait for it.

        Args:
            error: the error of this process, or None.
            flags: numbers of this process.

        Returns:
            The error of this process, or else that of another, or None if no process has any; and the largest value
            of each flag.
        """
        failed, *largest = self.largest(int(error is not None), *flags)
        if not failed:
            return None, largest
        found = [entry for entry in self.gather(_described(error)) if entry is not None]
        kind, message = found[0]
        error = error or (NonFiniteError if kind == "NonFiniteError" else InputError)(message)
        error.known_to_first = True  # decides which process prints it, see engine/run.py
        return error, largest

    def agree(self, error: Failure | None, *flags: int) -> list[int]:
        """Raise the error of any process on every process; without an error, return the largest value of each flag."""
        error, largest = self.shared(error, *flags)
        if error is not None:
            raise error
        return largest

    def together(self, build: Callable[[], Result]) -> Result:
        """Run `build` on every process. An InputError or NonFiniteError of one process is raised on all."""
        error: Failure | None = None
        try:
            result = build()
        except (InputError, NonFiniteError) as raised:
            error = raised
        self.agree(error)
        return result

    def on_first(self, work: Callable[[], Result]) -> Result:
        """Run `work` only on the first process, while the others wait; return its result on every process."""
        return self.from_first(self.together(work if self.is_first else _nothing))


def end_started_processes(fabric: Fabric, *, patience: float) -> None:
    """Wait for the processes that Lightning started in addition to this one, then kill those that still run.

    After a failure of this process they would wait for it in a collective operation, on GPUs for half an hour.

    Args:
        fabric: the Fabric that started them.
        patience: seconds to wait.
    """
    deadline = time.monotonic() + patience
    for process in getattr(fabric.strategy.launcher, "procs", []):
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()


def watch_started_processes(fabric: Fabric, tell: Callable[[str], None]) -> None:
    """Tell, from a thread, if a process that Lightning started ends with an error or is killed.

    Lightning then kills this process too, within seconds, and nothing else would say why.

    Args:
        fabric: the Fabric that started them.
        tell: gets one line.
    """
    processes = list(getattr(fabric.strategy.launcher, "procs", []))

    def watch() -> None:
        while True:
            for rank, process in enumerate(processes, start=1):
                if status := process.poll():
                    how = f"with status {status}"
                    if status < 0:
                        how = f"by {signal.Signals(-status).name}" + " (out of memory?)" * (status == -signal.SIGKILL)
                    tell(f"process {rank} of this run has ended {how}: the run ends")
                    return
            time.sleep(0.2)

    if processes:
        threading.Thread(target=watch, name="watch-processes", daemon=True).start()


def _nothing() -> None:
    """The work of the other processes in `on_first`."""


def _described(error: Exception | None) -> tuple[str, str] | None:
    return None if error is None else (type(error).__name__, str(error))
