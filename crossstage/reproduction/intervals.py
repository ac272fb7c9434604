"""Means over seeds with 95 % intervals, and tests of differences that are paired by seed (all from scipy).

- Student's t interval of the mean, from two values on. It assumes that the values are roughly normal.
- The BCa bootstrap interval of the mean, from five values on, which needs no shape. With few values it is too narrow.
- The sign test, which uses only how many differences are positive.
- The permutation test, which flips the signs of the differences: in all 2 ** n ways for up to 13 seeds, so that it is
  exact. It needs no shape either, but n seeds cannot give a p-value below 2 / 2 ** n: 0.0625 with five seeds.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, bootstrap, permutation_test, t

CONFIDENCE = 0.95
FEWEST = 5
"""The fewest values of which a bootstrap interval is given."""
RESAMPLES = 9999


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


@dataclass(frozen=True)
class PairedTests:
    """What the differences of two rows by seed say.

    Attributes:
        differences: by seed.
        better: how many of them are above 0.
        bootstrap: the BCa interval of their mean, or None below five seeds.
        sign: two-sided p-value of the sign test; differences of 0 do not count.
        permutation: two-sided p-value of the permutation test of the mean.
    """

    differences: dict[int, float]
    better: int
    bootstrap: tuple[float, float] | None
    sign: float
    permutation: float

    def cells(self) -> list[str]:
        """The tests as cells of the report's table."""
        interval = "-" if self.bootstrap is None else "{:+.2f} to {:+.2f}".format(*self.bootstrap)
        return [f"{self.better} of {len(self.differences)}", interval, f"{self.sign:.3f}", f"{self.permutation:.3f}"]


def mean_of_seeds(values: Sequence[float]) -> Estimate | None:
    """The mean of some values, or None if there are none. Differences by seed give a paired interval."""
    if len(values) < 2:
        return Estimate(values[0], None, 1) if values else None
    quantile = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    half_width = quantile * statistics.stdev(values) / len(values) ** 0.5
    return Estimate(statistics.fmean(values), half_width, len(values))


def paired_tests(differences: dict[int, float]) -> PairedTests | None:
    """Test whether the mean of some differences by seed is 0. None below two seeds, of which nothing can be said."""
    if len(differences) < 2:
        return None
    values = list(differences.values())
    better, worse = sum(value > 0 for value in values), sum(value < 0 for value in values)
    sign = float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
    flipped = permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=RESAMPLES, random_state=_generator()
    )
    return PairedTests(differences, better, bootstrap_interval(values), sign, float(flipped.pvalue))


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The BCa bootstrap interval of the mean, always the same for the same values; None for fewer than five."""
    if len(values) < FEWEST:
        return None
    if len(set(values)) == 1:  # BCa is not defined without any spread
        return values[0], values[0]
    found = bootstrap((values,), np.mean, n_resamples=RESAMPLES, method="BCa", random_state=_generator())
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def _generator() -> np.random.Generator:
    """The same random numbers at each call, so that a report that is written again has the same intervals."""
    return np.random.default_rng(0)
