"""The core of deformable attention against per-level `grid_sample`, stack, multiply and sum: time and memory."""

from __future__ import annotations

import multiprocessing
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import with_detrex
from benchmarks.measure import Comparison, Setting, Target, interleaved, max_difference
from crossstage.layers.deformable import deformable_sampling
from crossstage.structures import Levels

SHAPES = ((100, 134), (50, 67), (25, 34), (13, 17))
HEADS, POINTS, CHANNELS = 8, 4, 256
DECODER_QUERIES = 900
BASELINE = "grid_sample per level"


@dataclass(frozen=True)
class Inputs:
    """values: [1, M, H, D].  locations: [1, N, H, L, P, 2].  weights: [1, N, H, L, P].  All want gradients."""

    values: Tensor
    levels: Levels
    locations: Tensor
    weights: Tensor

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.values, self.locations, self.weights


def run(setting: Setting) -> list[Comparison]:
    """Decoder and encoder: without gradients, forward + backward, and the memory that the encoder's forward takes."""
    shapes = ((12, 16), (6, 8), (3, 4), (2, 2)) if setting.quick else SHAPES
    tokens = sum(height * width for height, width in shapes)
    rows = []
    for name, queries, targets in (("decoder", None, (2.3, 3)), ("encoder", tokens, (2.5, 4))):
        queries = queries or (20 if setting.quick else DECODER_QUERIES)
        forward, both = (Target(at_least=ratio) for ratio in targets)
        rows += _compare(f"{name}, {queries} queries", make_inputs(shapes, queries), setting, (forward, both))
    return rows + _memory(shapes, setting)


def make_inputs(shapes: tuple[tuple[int, int], ...], queries: int) -> Inputs:
    """Points a few cells around their query, as a trained model has them.

    No point lies on a pixel's centre, where the gradient jumps and rounding decides. As many queries as tokens: each
    token is a query, in the encoder's order; else they are anywhere.
    """
    random = torch.Generator().manual_seed(0)
    tokens = sum(height * width for height, width in shapes)
    values = torch.randn(1, tokens, HEADS, CHANNELS // HEADS, generator=random)
    levels = Levels.of(shapes, values)
    centre = _token_centres(shapes) if queries == tokens else torch.rand(queries, 2, generator=random)
    sizes = levels.sizes[:, None]
    position = torch.randn(1, queries, HEADS, len(shapes), POINTS, 2, generator=random).mul_(2)
    position += centre[:, None, None, None] * sizes - 0.5
    low = position.floor()
    position = low + (position - low).clamp_(0.01, 0.99)
    weights = torch.rand(1, queries, HEADS, len(shapes) * POINTS, generator=random).softmax(-1)
    weights = weights.unflatten(-1, (len(shapes), POINTS))
    return Inputs(
        values.requires_grad_(), levels, ((position + 0.5) / sizes).requires_grad_(), weights.requires_grad_()
    )


def _token_centres(shapes: tuple[tuple[int, int], ...]) -> Tensor:
    """[M, 2], (x, y) in [0, 1]."""
    centres = []
    for height, width in shapes:
        y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
        centres.append(torch.stack([x, y], dim=-1).flatten(0, 1))
    return torch.cat(centres)


def by_grid_sample(inputs: Inputs) -> Tensor:
    """The baseline, [1, N, C]: one `grid_sample` a level, all samples kept, then weighted and summed."""
    batch, queries, heads, *_ = inputs.weights.shape
    maps = inputs.values.split(list(inputs.levels.tokens), dim=1)
    grid = 2 * inputs.locations - 1
    samples = []
    for level, (height, width) in enumerate(inputs.levels.shapes):
        image = maps[level].permute(0, 2, 3, 1).reshape(batch * heads, -1, height, width)
        points_of_level = grid[:, :, :, level].transpose(1, 2).flatten(0, 1)
        samples.append(F.grid_sample(image, points_of_level, padding_mode="zeros", align_corners=False))
    weights = inputs.weights.transpose(1, 2).reshape(batch * heads, 1, queries, -1)
    summed = (torch.stack(samples, dim=-2).flatten(-2) * weights).sum(-1)
    return summed.view(batch, -1, queries).transpose(1, 2)


def by_ours(inputs: Inputs) -> Tensor:
    """[1, N, C]."""
    return deformable_sampling(inputs.values, inputs.levels, locations=inputs.locations, weights=inputs.weights)


def _compare(case: str, inputs: Inputs, setting: Setting, targets: tuple[Target, Target]) -> list[Comparison]:
    sides: dict[str, Callable[[], Tensor]] = {BASELINE: lambda: by_grid_sample(inputs), "ours": lambda: by_ours(inputs)}
    values, locations, weights = inputs.tensors
    if (
        theirs := with_detrex.attention(values, inputs.levels.shapes, locations=locations, weights=weights)
    ) is not None:
        sides["detrex"] = theirs
    results = {name: _output_and_gradients(side, inputs) for name, side in sides.items()}
    forward = interleaved({name: torch.no_grad()(side) for name, side in sides.items()}, setting.rounds)
    both = interleaved(
        {name: lambda side=side: _output_and_gradients(side, inputs) for name, side in sides.items()}, setting.rounds
    )
    timed = (("no gradients", forward, targets[0]), ("forward + backward", both, targets[1]))
    return [
        Comparison(
            benchmark="attention",
            case=f"{case}, {kind}",
            baseline=name,
            theirs=times[name],
            ours=times["ours"],
            target=wanted if name == BASELINE else Target(),
            difference=_relative_difference(results[name], results["ours"]),
            tolerance=1e-4,
        )
        for kind, times, wanted in timed
        for name in sides
        if name != "ours"
    ]


def _output_and_gradients(side: Callable[[], Tensor], inputs: Inputs) -> tuple[Tensor, ...]:
    output = side()
    return output.detach(), *torch.autograd.grad(output, inputs.tensors, torch.ones_like(output))


def _relative_difference(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> float:
    """The largest difference in terms of the largest value, over output and gradients."""
    return max(max_difference(a, b) / a.abs().max().item() for a, b in zip(first, second, strict=True))


def _memory(shapes: tuple[tuple[int, int], ...], setting: Setting) -> list[Comparison]:
    """Extra peak memory of one call in a process of its own, in MB."""
    rows = []
    kinds = [("no gradients", False, Target(at_most=0.4)), ("forward + backward", True, Target())]
    for kind, gradients, target in kinds[:1] if setting.quick else kinds:
        theirs, ours = (_in_new_process(side, shapes, gradients) for side in (by_grid_sample, by_ours))
        rows.append(
            Comparison(
                benchmark="attention",
                case=f"encoder, extra peak memory, {kind}",
                baseline=BASELINE,
                theirs=theirs,
                ours=ours,
                target=target,
                difference=0.0,  # the rows above have compared the results
                tolerance=0.0,
                unit="MB",
            )
        )
    return rows


def _in_new_process(side: Callable[[Inputs], Tensor], shapes: tuple[tuple[int, int], ...], gradients: bool) -> float:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(extra_peak, (side, shapes, gradients))


def extra_peak(side: Callable[[Inputs], Tensor], shapes: tuple[tuple[int, int], ...], gradients: bool) -> float:
    """How far one call raises this process's peak of resident memory above what its inputs need, in MB."""
    torch.set_num_threads(1)
    few = make_inputs(((4, 4), (2, 2)), 20)
    _output_and_gradients(lambda: side(few), few)  # what torch loads at the first call is not the call's
    inputs = make_inputs(shapes, sum(height * width for height, width in shapes))
    before = kilobytes("VmRSS")
    if gradients:
        _output_and_gradients(lambda: side(inputs), inputs)
    else:
        with torch.no_grad():
            side(inputs)
    return (kilobytes("VmHWM") - before) / 1024


def kilobytes(field: str) -> int:
    """Resident memory of this process, now (VmRSS) or at its peak (VmHWM), as Linux tells it; elsewhere the peak.

    Not ru_maxrss, where Linux has its own figure: a new process inherits that of the one that started it.
    """
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith(field))
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)
