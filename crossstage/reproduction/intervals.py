"""Means over seeds and differences of means, with 95 % Student-t intervals from scipy."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import ttest_1samp, ttest_ind

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean with its confidence interval.

    Attributes:
        mean: the mean.
        half_width: half the width of the 95 % interval; None for one seed.
        method: the method of the interval, in words.
    """

    mean: float
    half_width: float | None
    method: str

    def __str__(self) -> str:
        return f"{self.mean:.2f}" if self.half_width is None else f"{self.mean:.2f} ± {self.half_width:.2f}"

    def signed(self) -> str:
        """The text of a difference: as `str`, but always with a sign."""
        return f"{'+' if self.mean >= 0 else ''}{self}"


def mean_of_seeds(values: Sequence[float], kind: str = "t") -> Estimate:
    """The mean of at least one value with its interval; `kind` names the method (paired, for differences by seed)."""
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Estimate(mean, None, "one seed: no interval")
    return Estimate(mean, _half_width(ttest_1samp, values, mean), f"{kind}, {len(values)} seeds")


def difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Estimate:
    """The difference of two means over seeds.

    Args:
        ours: values by seed, at least one.
        theirs: values by seed, at least one.

    Returns:
        ours - theirs, with a paired interval if the seeds are the same, and otherwise with Welch's interval.
    """
    if ours.keys() == theirs.keys():
        return mean_of_seeds([ours[seed] - theirs[seed] for seed in ours], "paired t")
    sides = list(ours.values()), list(theirs.values())
    mean = statistics.fmean(sides[0]) - statistics.fmean(sides[1])
    if min(map(len, sides)) == 1:
        return Estimate(mean, None, "other seeds, and one side has one seed: no interval")
    half_width = _half_width(ttest_ind, *sides, equal_var=False)
    return Estimate(mean, half_width, f"Welch's t, {len(ours)} and {len(theirs)} seeds")


def _half_width(
    test: Callable[..., Any], values: Sequence[float], other: Sequence[float] | float, **options: bool
) -> float:
    """Half the width of a t-test's interval; 0 without variance, in which case scipy has no degrees of freedom."""
    if all(len({*side}) == 1 for side in (values, other) if not isinstance(side, float)):
        return 0.0
    interval = test(values, other, **options).confidence_interval(CONFIDENCE)
    return float(interval.high - interval.low) / 2
