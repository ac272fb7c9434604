"""How far the detections of a file are from those of its model, and how long both take.

Two runtimes round differently, and this can change the order of a list: two detections with nearly equal scores swap
places, and at its end another one of nearly the same score enters. So the lists are not compared row by row:

- Scores: the i-th highest of one list with the i-th highest of the other. If each score changes by at most e, so does
  each of the ordered ones, however they swap.
- Boxes: each detection with that of the other list which has the same label, nearly the same score, and the nearest
  box. Detections whose score is nearly the lowest of their list may have no partner.
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


LIMITS = {"float32": Limits(1e-4, 0.05), "float16": Limits(0.02, 4.0)}


@dataclass(frozen=True)
class Agreement:
    """One comparison. scores, boxes: largest differences. eager, file: median milliseconds."""

    shape: tuple[int, ...]
    scores: float
    boxes: float
    eager: float
    file: float

    def __str__(self) -> str:
        batch, _, height, width = self.shape
        return (
            f"batch {batch}, {height}x{width}: scores {self.scores:.1e}, boxes {self.boxes:.1e} px; eager "
            f"{self.eager:.1f} ms, file {self.file:.1f} ms, {self.eager / self.file:.2f} times as fast"
        )

    def within(self, limits: Limits) -> bool:
        """Whether the differences are within the limits; not if one is NaN."""
        return self.scores <= limits.scores and self.boxes <= limits.boxes


def compared(model: Detecting, file: Detecting, pixels: Tensor, *, limits: Limits, rounds: int) -> Agreement:
    """Compare model and file on a batch, then time them in turn.

    Args:
        model, file: the two functions.
        pixels: uint8 [B, 3, H, W].
        limits: scores that differ by at most this are nearly equal.
        rounds: timed runs of each, after the first, which is not timed.

    Returns:
        The largest differences over the batch, and the medians.
    """
    expected, found = model(pixels), file(pixels)
    scores, boxes = differences(expected, found, nearly=limits.scores)
    eager, other = interleaved([lambda: model(pixels), lambda: file(pixels)], rounds)
    return Agreement(tuple(pixels.shape), scores, boxes, eager, other)


def differences(expected: Sequence[Tensor], found: Sequence[Tensor], *, nearly: float) -> tuple[float, float]:
    """The largest differences of two batches of detections.

    Args:
        expected: boxes_xyxy [B, D, 4], scores [B, D] and labels [B, D].
        found: likewise.
        nearly: scores that differ by at most this are nearly equal.

    Returns:
        The largest difference of scores, and of box coordinates in pixels, infinite if a detection has no partner.
    """
    if any(ours.shape != theirs.shape for ours, theirs in zip(expected, found, strict=True)):
        return float("inf"), float("inf")
    (boxes, scores, labels), (other_boxes, other_scores, other_labels) = expected, found
    of_scores = scores.sort(dim=1).values - other_scores.sort(dim=1).values
    partner = (labels[:, :, None] == other_labels[:, None]) & (
        (scores[:, :, None] - other_scores[:, None]).abs() <= nearly
    )
    distance = (boxes[:, :, None] - other_boxes[:, None]).abs().amax(dim=-1)  # [B, D, D]
    nearest = distance.masked_fill(~partner, torch.inf).amin(dim=-1)
    at_the_end = scores <= scores.amin(dim=1, keepdim=True) + nearly
    return of_scores.abs().max().item(), nearest.masked_fill(at_the_end & nearest.isinf(), 0).max().item()


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
    if wrong := [agreement for agreement in agreements if not agreement.within(limits)]:
        worst = max(wrong, key=lambda agreement: (agreement.boxes, agreement.scores))
        raise InputError(
            f"{name}: differs from its model by {worst.scores:.1e} in scores and {worst.boxes:.1e} pixels in boxes, "
            f"more than {limits.scores:g} and {limits.boxes:g}; the file was removed. Try other --input pictures, or "
            "--format torch-export"
        )
