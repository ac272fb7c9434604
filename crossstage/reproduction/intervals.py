"""Means over seeds with 95 % Student-t intervals."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import t

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over `count` seeds with half the width of its confidence interval; None for one seed."""

    mean: float
    half_width: float | None
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.2f}" if self.half_width is None else f"{self.mean:.2f} ± {self.half_width:.2f}"

    def signed(self) -> str:
        """The text of a difference: as `str`, but always with a sign."""
        return f"{'+' * (self.mean >= 0)}{self}"


def mean_of_seeds(values: Sequence[float]) -> Estimate | None:
    """The mean of some values, or None if there are none. Differences by seed give a paired interval."""
    if len(values) < 2:
        return Estimate(values[0], None, 1) if values else None
    quantile = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    half_width = quantile * statistics.stdev(values) / len(values) ** 0.5
    return Estimate(statistics.fmean(values), half_width, len(values))
