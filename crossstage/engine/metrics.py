"""The numbers of a run: medians over the last iterations, and metrics.json in detectron2's form."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crossstage.errors import InputError, NonFiniteError
from crossstage.files import strict_json, unwritable, write_text
from crossstage.structures import ImageBatch, Losses

WINDOW = 20  # a logged value is the median of this many iterations


@dataclass(frozen=True)
class StepRecord:
    """The numbers and the images of one batch. The numbers stay on the device until `settle` copies them.

    Attributes:
        iteration: the iteration, counted from 0.
        names: the names of the numbers; the losses come first.
        num_losses: how many of the numbers are losses, which must be finite.
        values: the numbers, float32 [len(names)].
        batch: the batch as the loader has made it, on the host, to show it after a failure; None after a check.
        image_ids: the images of the batch.
    """

    iteration: int
    names: tuple[str, ...]
    num_losses: int
    values: Tensor
    image_ids: tuple[int, ...]
    batch: ImageBatch | None = None

    @classmethod
    def of(cls, iteration: int, losses: Losses, batch: ImageBatch) -> StepRecord:
        """Make the record of a batch: the loss terms, their total as `total_loss`, and the metrics."""
        numbers = {**losses.terms, "total_loss": losses.total, **losses.metrics}
        values = torch.stack([value.detach().float() for value in numbers.values()])
        return cls(iteration, tuple(numbers), len(losses.terms) + 1, values, batch.image_ids, batch)

    @classmethod
    def without_losses(cls, iteration: int, batch: ImageBatch) -> StepRecord:
        """The record of a batch for which the model failed before it had losses."""
        return cls(iteration, (), 0, torch.zeros(0), batch.image_ids, batch)

    def losses(self) -> dict[str, float]:
        """The losses by name, copied to the host."""
        return dict(zip(self.names[: self.num_losses], self.values.tolist(), strict=False))


def settle(records: list[StepRecord]) -> list[dict[str, float]]:
    """Copy the numbers of several batches to the host in one transfer, and check that all losses are finite.

    Args:
        records: the batches.

    Returns:
        The numbers of each batch, by name.

    Raises:
        NonFiniteError: names the first iteration with a loss that is not finite, the losses, and the images.
    """
    if not records:
        return []
    flat = torch.cat([record.values for record in records]).tolist()
    rows = []
    for record in records:
        row, flat = dict(zip(record.names, flat, strict=False)), flat[len(record.names) :]
        bad = [name for name in record.names[: record.num_losses] if not math.isfinite(row[name])]
        if bad:
            error = NonFiniteError(
                f"iteration {record.iteration}: not finite: {', '.join(bad)}; {described(record.image_ids)}"
            )
            error.evidence = (record,)
            raise error
        rows.append(row)
    return rows


def described(image_ids: tuple[int, ...]) -> str:
    """The images of a step, for a message."""
    return f"image ids {', '.join(str(image_id) for image_id in image_ids) or 'unknown'}"


def mean_of(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each metric over those rows that have it (a batch without objects may lack some)."""
    names = dict.fromkeys(name for row in rows for name in row)
    found = {name: [row[name] for row in rows if name in row] for name in names}
    return {name: sum(values) / len(values) for name, values in found.items()}


class History:
    """The last values of each metric."""

    def __init__(self) -> None:
        self._values: dict[str, deque[float]] = {}

    def add(self, row: Mapping[str, float]) -> None:
        """Add the metrics of one iteration."""
        for name, value in row.items():
            self._values.setdefault(name, deque(maxlen=WINDOW)).append(value)

    def medians(self) -> dict[str, float]:
        """The median of each metric over its last 20 values."""
        return {name: statistics.median(values) for name, values in self._values.items()}

    def state_dict(self) -> dict[str, list[float]]:
        """The values as plain lists."""
        return {name: list(values) for name, values in self._values.items()}

    def load_state_dict(self, state: Mapping[str, list[float]]) -> None:
        """Restore what `state_dict` returned."""
        self._values = {name: deque(values, maxlen=WINDOW) for name, values in state.items()}


class MetricsFile:
    """metrics.json: one JSON object per line with sorted keys and the `iteration`, counted from 0; NaN is null."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, iteration: int, values: Mapping[str, Any]) -> None:
        """Write one line and flush it to the disk, so that no later checkpoint is ahead of this file.

        Raises InputError if the disk is full or read-only.
        """
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_line({**values, "iteration": iteration}))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(unwritable(self.path, error)) from error

    def read(self) -> list[dict[str, Any]]:
        """All complete lines; null is NaN."""
        if not self.path.is_file():
            return []
        rows = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue  # a line that a killed process left unfinished
            rows.append({name: math.nan if value is None else value for name, value in row.items()})
        return rows

    def truncate(self, iteration: int) -> None:
        """Remove all rows from `iteration` on, because a resumed run will write them again."""
        if self.path.is_file():
            rows = [row for row in self.read() if row["iteration"] < iteration]
            write_text(self.path, "".join(_line(row) for row in rows))


def _line(row: Mapping[str, Any]) -> str:
    return strict_json(row, sort_keys=True) + "\n"
