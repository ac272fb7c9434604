"""How far the detections of a file are from those of its model, and how long both take.

Two runtimes round differently, and this can change the order of a list: two detections with nearly equal scores swap
places, and at its end another one of nearly the same score enters. So the lists are not compared row by row:

- Scores: the i-th highest of one list with the i-th highest of the other. If each score changes by at most e, so does
  each of the ordered ones, however they swap.
- Boxes: each detection with that of the other list which has the same label, nearly the same score, and the nearest
  box. Detections whose score is nearly the lowest of their list may have no partner.

Some models enlarge roundings, above all with untrained weights: a DINO whose tokens have nearly equal scores gives two
of them each other's learned query, and repeated steps (DEQDet, StageInteractor) let every rounding grow. Then the model
in float32 is as far from itself in float64 as the file is from it. So a file above the limits is compared with the
model in float64 (`as_accurate`).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from crossstage.deployment.load import Detecting
from crossstage.errors import InputError


@dataclass(frozen=True)
class Limits:
    """The largest differences of a file that is right. scores: from 0 to 1.  boxes: in pixels."""

    scores: float
    boxes: float


OWN_ERRORS = 3  # how many times the float32 error of the model the file may be away from the model in float64
LIMITS = {"float32": Limits(1e-4, 0.05), "float16": Limits(0.02, 4.0)}


@dataclass(frozen=True)
class Difference:
    """How far two batches of detections are apart. scores, boxes: largest.  median: of the boxes.  Boxes in pixels."""

    scores: float
    boxes: float
    median: float

    def within(self, limits: Limits) -> bool:
        """Whether all detections are within the limits; not if one is NaN."""
        return self.scores <= limits.scores and self.boxes <= limits.boxes


@dataclass(frozen=True)
class Agreement:
    """One comparison. eager, file: median milliseconds.

    found: between file and model.  exact: between file and the model in float64.  own: between the model and itself
    in float64. Both are None if `found` is within the limits.
    """

    shape: tuple[int, ...]
    found: Difference
    eager: float
    file: float
    exact: Difference | None = None
    own: Difference | None = None

    def __str__(self) -> str:
        batch, _, height, width = self.shape
        rounding = ""
        if self.exact is not None and self.own is not None:
            rounding = (
                f" (from the model in float64: file {self.exact.scores:.1e}, {self.exact.boxes:.1e} px; model in "
                f"float32 {self.own.scores:.1e}, {self.own.boxes:.1e} px)"
            )
        found = f"scores {self.found.scores:.1e}, boxes {self.found.boxes:.1e} px{rounding}"
        times = f"eager {self.eager:.1f} ms, file {self.file:.1f} ms, {self.eager / self.file:.2f} times as fast"
        return f"batch {batch}, {height}x{width}: {found}; {times}"

    def within(self, limits: Limits) -> bool:
        """Whether the file is right: within the limits, or as accurate as the model."""
        if self.found.within(limits):
            return True
        return self.exact is not None and self.own is not None and as_accurate(self.exact, self.own, limits)


def as_accurate(file: Difference, own: Difference, limits: Limits) -> bool:
    """Whether a file is about as close to the model in float64 as the model in float32 is.

    A few boxes may be far away where those of the model are, too. A fault in the graph would move most of them, so half
    of the boxes have to be within the limit in any case.
    """
    scores, boxes = (
        max(OWN_ERRORS * error, limit) for error, limit in ((own.scores, limits.scores), (own.boxes, limits.boxes))
    )
    return file.scores <= scores and file.boxes <= boxes and file.median <= limits.boxes


def compared(
    model: Detecting, file: Detecting, pixels: Tensor, *, precise: Detecting, limits: Limits, rounds: int
) -> Agreement:
    """Compare model and file on a batch, then time them in turn.

    Args:
        model, file: the two functions.
        pixels: uint8 [B, 3, H, W].
        precise: the model in float64, called if the differences exceed the limits.
        limits: scores that differ by at most this are nearly equal.
        rounds: timed runs of each, after the first, which is not timed.

    Returns:
        The differences over the batch, and the medians.
    """
    expected, found = model(pixels), file(pixels)
    apart = differences(expected, found, nearly=limits.scores)
    exact = own = None
    if not apart.within(limits):
        best = precise(pixels)
        exact, own = (differences(best, other, nearly=limits.scores) for other in (found, expected))
    eager, other = interleaved([lambda: model(pixels), lambda: file(pixels)], rounds)
    return Agreement(tuple(pixels.shape), apart, eager, other, exact, own)


def differences(expected: Sequence[Tensor], found: Sequence[Tensor], *, nearly: float) -> Difference:
    """How far two batches of detections are apart.

    Args:
        expected: boxes_xyxy [B, D, 4], scores [B, D] and labels [B, D].
        found: likewise.
        nearly: scores that differ by at most this are nearly equal.

    Returns:
        The differences of scores, and of box coordinates in pixels, infinite if a detection has no partner.
    """
    if any(ours.shape != theirs.shape for ours, theirs in zip(expected, found, strict=True)):
        return Difference(torch.inf, torch.inf, torch.inf)
    (boxes, scores, labels), (other_boxes, other_scores, other_labels) = expected, found
    of_scores = scores.sort(dim=1).values - other_scores.sort(dim=1).values
    partner = (labels[:, :, None] == other_labels[:, None]) & (
        (scores[:, :, None] - other_scores[:, None]).abs() <= nearly
    )
    distance = (boxes[:, :, None] - other_boxes[:, None]).abs().amax(dim=-1)  # [B, D, D]
    nearest = distance.masked_fill(~partner, torch.inf).amin(dim=-1)
    at_the_end = scores <= scores.amin(dim=1, keepdim=True) + nearly
    nearest = nearest.masked_fill(at_the_end & nearest.isinf(), 0)
    return Difference(of_scores.abs().max().item(), nearest.max().item(), nearest.median().item())


def interleaved(sides: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Median milliseconds of each side; every round runs all of them, so that a busy machine slows all alike."""
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for side, taken in zip(sides, times, strict=True):
            start = time.perf_counter()
            side()
            taken.append((time.perf_counter() - start) * 1e3)
    return [statistics.median(taken) for taken in times]


def check(agreements: Sequence[Agreement], limits: Limits, name: str) -> None:
    """Raise InputError if a comparison exceeds the limits; `name` of the file is in the message."""
    if wrong := [agreement.found for agreement in agreements if not agreement.within(limits)]:
        worst = max(wrong, key=lambda found: (found.boxes, found.scores))
        raise InputError(
            f"{name}: differs from its model by {worst.scores:.1e} in scores and {worst.boxes:.1e} pixels in boxes, "
            f"more than {limits.scores:g} and {limits.boxes:g} and than roundings explain; the file was removed. Try "
            "other --input pictures, or --format torch-export"
        )
