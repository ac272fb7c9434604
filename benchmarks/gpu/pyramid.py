"""Section pyramid: AdaMixer's 3-D sampling."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu import kernels
from benchmarks.gpu.record import Check
from benchmarks.gpu.scenes import PYRAMID, TINY_PYRAMID, levels_of
from crossstage.layers.sampling import sample_pyramid, with_shared_gradient
from crossstage.modeling.encoders.tokens import unpadded_memory
from crossstage.structures import Memory


def section_pyramid(check: Check) -> None:
    """With and without the kernels: forward, forward + backward, peak memory; six stages with one gradient."""
    forms = {"bag": False} | ({"triton (ours)": True} if kernels.can_run(check) else {})
    for queries, points in ((4, 3),) if check.tiny else ((100, 32), (100, 64), (300, 32)):
        for dtype in (torch.float32, torch.bfloat16):
            base = None
            for label, by_kernels in forms.items():
                case = f"{queries} queries, {points} points, {str(dtype)[6:]} {label}"
                try:
                    with kernels.sampling_by_kernels(by_kernels):
                        times, peak = measure(check, queries, points, dtype)
                except Exception as error:
                    check.put_error("pyramid", case, error)
                    continue
                base = base or times
                ratios = [round(theirs / ours, 2) for theirs, ours in zip(base, times, strict=True)]
                shown = [*(round(value, 3) for value in times), *ratios, peak]
                check.put("pyramid", f"{case}: fwd, f+b ms; x bag; MB", shown)
    for label, by_kernels in forms.items():
        for dtype in (torch.float32, torch.bfloat16):
            case = f"six stages, {str(dtype)[6:]} {label}"
            try:
                with kernels.sampling_by_kernels(by_kernels):
                    shown = measure_stages(check, dtype)
            except Exception as error:
                check.put_error("pyramid", case, error)
                continue
            check.put("pyramid", f"{case}: f+b ms with a gradient each, with one; MB", shown)


def measure(check: Check, queries: int, points: int, dtype: torch.dtype) -> tuple[tuple[float, float], float]:
    """Milliseconds of the forward pass and of both, and the peak MB of both."""
    memory, places, sample = inputs(check, queries, points, dtype)

    def forward() -> None:
        with torch.no_grad():
            sample(memory, places)

    def both() -> None:
        out = sample(memory, places)
        torch.autograd.grad(out, (memory.tokens, places), torch.ones_like(out))

    clock = check.meter.clock
    return (clock(forward, rounds=20), clock(both, rounds=20)), check.meter.peak(both)


def measure_stages(check: Check, dtype: torch.dtype) -> list[float]:
    """Forward + backward of six stages: milliseconds and peak MB with a gradient of the tokens each, and with one."""
    memory, places, sample = inputs(check, *((4, 3) if check.tiny else (100, 32)), dtype)

    def both(stages_memory: Callable[[Memory], Memory]) -> None:
        shared = stages_memory(memory)
        stages = [sample(shared, places) for _ in range(2 if check.tiny else 6)]
        torch.autograd.grad(stages, (memory.tokens, places), [torch.ones_like(stage) for stage in stages])

    sides = (partial(both, lambda memory: memory), partial(both, with_shared_gradient))
    times = [round(check.meter.clock(side, rounds=20), 3) for side in sides]
    return [*times, *(check.meter.peak(side) for side in sides)]


def inputs(check: Check, queries: int, points: int, dtype: torch.dtype) -> tuple[Memory, Tensor, Callable[..., Tensor]]:
    """The tokens of two images, points anywhere in them in four groups, both with gradients, and `sample_pyramid`."""
    torch.manual_seed(0)
    device = check.device
    levels = levels_of(check, TINY_PYRAMID if check.tiny else PYRAMID)
    tokens = torch.randn(2, sum(levels.tokens), 256, device=device).to(dtype).requires_grad_()
    extent = torch.tensor([1344.0, 800.0, 3.0], device=device)
    places = (torch.rand(2, queries, 4, points, 3, device=device) * extent).requires_grad_()
    strides, centres = torch.tensor([4.0, 8.0, 16.0, 32.0], device=device), torch.arange(4.0, device=device)
    return unpadded_memory(tokens, levels), places, partial(sample_pyramid, strides=strides, centres=centres)
