"""Means over seeds and their differences, with 95 % Student-t intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.stats import t as student

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean, half the width of its 95 % interval (None: one seed has none), and what that is made from."""

    mean: float
    half_width: float | None
    method: str

    def __str__(self) -> str:
        return f"{self.mean:.2f}" if self.half_width is None else f"{self.mean:.2f} ± {self.half_width:.2f}"

    def signed(self) -> str:
        """As `str`, with a sign, for a difference."""
        return f"{'+' if self.mean >= 0 else ''}{self}"


def mean_of_seeds(values: Sequence[float]) -> Estimate:
    """The mean of at least one value: t with n - 1 degrees of freedom, s / sqrt(n)."""
    mean = statistics.fmean(values)
    count = len(values)
    if count == 1:
        return Estimate(mean, None, "one seed: no interval")
    error = statistics.stdev(values) / math.sqrt(count)
    return Estimate(mean, _quantile(count - 1) * error, f"t, {count} seeds")


def difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Estimate:
    """ours - theirs, each by seed and with at least one: paired where the seeds are the same, else Welch's interval."""
    if ours.keys() == theirs.keys():
        paired = mean_of_seeds([ours[seed] - theirs[seed] for seed in ours])
        return Estimate(paired.mean, paired.half_width, paired.method.replace("t,", "paired t,"))
    mean = statistics.fmean(ours.values()) - statistics.fmean(theirs.values())
    if min(len(ours), len(theirs)) == 1:
        return Estimate(mean, None, "other seeds, and one side has one seed: no interval")
    shares = [statistics.variance(side.values()) / len(side) for side in (ours, theirs)]
    method = f"Welch's t, {len(ours)} and {len(theirs)} seeds"
    if sum(shares) == 0:
        return Estimate(mean, 0.0, method)
    freedom = sum(shares) ** 2 / sum(
        share**2 / (len(side) - 1) for share, side in zip(shares, (ours, theirs), strict=True)
    )
    return Estimate(mean, _quantile(freedom) * math.sqrt(sum(shares)), method)


def _quantile(freedom: float) -> float:
    """How many standard errors half of the interval is."""
    return float(student.ppf((1 + CONFIDENCE) / 2, freedom))
