"""The numbers of the training steps, from the device to the medians that are logged."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from crossstage.engine.metrics import History, StepRecord, mean_of, settle
from crossstage.processes import Processes


class Recorder:
    """Collects losses, times and gradient norms of steps, and keeps the last ones of each.

    Args:
        processes: the processes of the run; numbers are means over them.
        accumulate: number of batches per step.
        checks_each_step: whether losses are checked at each step, or only at each `collect`. On a GPU, the former
            makes the host wait for the device.
    """

    def __init__(self, processes: Processes, *, accumulate: int, checks_each_step: bool) -> None:
        self.history = History()
        self.checks_each_step = checks_each_step
        self._processes, self._accumulate = processes, accumulate
        self._pending: list[StepRecord] = []
        self._timings: list[dict[str, float]] = []
        self._gradient_norms: list[Tensor] = []  # on the device until they are collected

    def check(self, record: StepRecord) -> None:
        """Raise NonFiniteError if a loss is not finite; where this would wait for a device, `collect` does it later."""
        if self.checks_each_step:
            settle([record])

    def add(self, records: list[StepRecord], *, gradient_norm: Tensor | None, seconds: float, waited: float) -> None:
        """Add a step: its batches, the norm of its gradient, its time, and the part of it that data were awaited."""
        # Batches that have been checked are not needed any more.
        self._pending += [replace(record, batch=None) if self.checks_each_step else record for record in records]
        self._timings.append({"time": seconds, "data_time": waited, "rank_data_time": waited})
        if gradient_norm is not None:
            self._gradient_norms.append(gradient_norm.detach())

    def collect(self) -> None:
        """Copy the metrics since the last call to the host, average them over the processes, and store them.

        Raises NonFiniteError on all processes if a loss of any process was not finite.
        """
        rows = self._processes.together(self._settle_pending)
        for of_ranks in zip(*self._processes.gather(rows), strict=True):
            first = {name: of_ranks[0][name] for name in ("time", "rank_data_time")}
            slowest = max(row["data_time"] for row in of_ranks)
            self.history.add({**mean_of(of_ranks), **first, "data_time": slowest})

    def medians(self) -> dict[str, float]:
        """The medians of the last 20 steps, those since the last `collect` included."""
        self.collect()
        return self.history.medians()

    def _settle_pending(self) -> list[dict[str, float]]:
        rows = settle(self._pending)
        parts = self._accumulate
        steps = [mean_of(rows[first : first + parts]) for first in range(0, len(rows), parts)]
        rows = [{**row, **timing} for row, timing in zip(steps, self._timings, strict=True)]
        if self._gradient_norms:  # none without clipping
            norms = torch.stack(self._gradient_norms).tolist()
            rows = [{**row, "grad_norm": norm} for row, norm in zip(rows, norms, strict=True)]
        self._pending, self._timings, self._gradient_norms = [], [], []
        return rows
