"""The gradient of the tokens that six stages sample: made once for all stages, against one per stage, added up."""

from __future__ import annotations

import multiprocessing
from functools import partial

import torch
from torch import Tensor

from benchmarks.attention import kilobytes
from benchmarks.measure import Comparison, Setting, Target, interleaved, max_difference
from benchmarks.pyramid_sampling import CENTRES, IMAGE, QUICK_IMAGE, STRIDES, Samples, make_samples
from crossstage.layers.sampling import sample_pyramid, with_shared_gradient
from crossstage.structures import Memory

STAGES = 6
BASELINE = "a gradient per stage"


def compare(setting: Setting) -> list[Comparison]:
    """Time of six stages' sampling with its gradients for 100 and 300 queries, and the memory that 100 take."""
    image = QUICK_IMAGE if setting.quick else IMAGE
    rows = []
    for queries, target in ((8, 1.0),) if setting.quick else ((100, 1.5), (300, 1.2)):
        samples = make_samples(image, queries)
        sides = {BASELINE: partial(_gradients, samples, False), "ours": partial(_gradients, samples, True)}
        alone, together = (side() for side in sides.values())
        difference = max(max_difference(a, b) / a.abs().max().item() for a, b in zip(alone, together, strict=True))
        del alone, together
        times = interleaved(sides, setting.rounds)
        case = f"3-D sampling of six stages, {queries} queries, forward + backward"
        rows.append(_row(case, times[BASELINE], times["ours"], Target(at_least=target), difference))
    peak = _peak if setting.quick else _peak_in_new_process
    case = "3-D sampling of six stages, extra peak memory"
    return [*rows, _row(case, peak(image, False), peak(image, True), Target(at_most=1.0), unit="MB")]


def _gradients(samples: Samples, share: bool) -> tuple[Tensor, ...]:
    """Of the tokens and the points. All stages read the same points: this changes no cost."""
    memory: Memory = with_shared_gradient(samples.memory) if share else samples.memory
    stages = [sample_pyramid(memory, samples.points, strides=STRIDES, centres=CENTRES) for _ in range(STAGES)]
    slopes = [torch.ones_like(stage) for stage in stages]
    return torch.autograd.grad(stages, (samples.memory.tokens, samples.points), slopes)


def _row(
    case: str, theirs: float, ours: float, target: Target, difference: float = 0.0, *, unit: str = "ms"
) -> Comparison:
    return Comparison("stage_interactor", case, BASELINE, theirs, ours, target, difference, 1e-5, unit)


def _peak_in_new_process(image: tuple[int, int], share: bool) -> float:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (image, share))


def _peak(image: tuple[int, int], share: bool) -> float:
    """How far one call raises this process's peak of resident memory above what its inputs need, in MB."""
    torch.set_num_threads(1)
    _gradients(make_samples(QUICK_IMAGE, 2), share)  # what torch loads at the first call is not the call's
    samples = make_samples(image, 100)
    before = kilobytes("VmRSS")
    _gradients(samples, share)
    return (kilobytes("VmHWM") - before) / 1024
