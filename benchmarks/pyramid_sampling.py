"""AdaMixer's 3-D sampling (`sample_pyramid`) against `grid_sample` per level, weighted and added up.

The levels are flattened once an image and shared by all stages: that is not timed, nor is the making of the maps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measure import Comparison, Setting, Target, interleaved, max_difference
from crossstage.layers.sampling import level_weights, sample_pyramid
from crossstage.modeling.encoders.tokens import unpadded_memory
from crossstage.structures import Levels, Memory

STRIDES, CENTRES = (4, 8, 16, 32), (2.0, 3.0, 4.0, 5.0)
GROUPS = 4
IMAGE, QUICK_IMAGE = (800, 1088), (64, 96)  # height and width, padded


@dataclass(frozen=True)
class Samples:
    """maps: a [1, C, h, w] each level; memory: the same, flattened; points: [1, N, G, P, 3]. All want gradients."""

    maps: tuple[Tensor, ...]
    memory: Memory
    points: Tensor


def make_samples(image: tuple[int, int], queries: int, *, points: int = 32, channels: int = 256) -> Samples:
    """Points around boxes of all sizes anywhere, some beyond the image; none where the gradient jumps."""
    random = torch.Generator().manual_seed(0)
    shapes = [(image[0] // stride, image[1] // stride) for stride in STRIDES]
    maps = [torch.randn(1, channels, *shape, generator=random) for shape in shapes]
    tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in maps], dim=1)
    scale = torch.rand(1, queries, 1, 1, 1, generator=random) * 3 + 2  # log2 of the box's side, 8 cells of a level
    centre = torch.rand(1, queries, 1, 1, 2, generator=random) * torch.tensor([image[1], image[0]])
    spread = torch.randn(1, queries, GROUPS, points, 3, generator=random)
    # to the middle of half a pixel: no sample of any level lies on a cell's centre
    places = (centre + spread[..., :2] * 4 * scale.exp2()).mul(2).floor().add(0.5).div(2) + 0.01
    where = torch.cat([places, scale + spread[..., 2:]], dim=-1)
    tokens.requires_grad_()
    return Samples(
        tuple(level.requires_grad_() for level in maps),
        unpadded_memory(tokens, Levels.of(shapes, tokens)),
        where.requires_grad_(),
    )


def by_grid_sample(samples: Samples) -> Tensor:
    """The baseline, [1, N, G, P, C / G]: one `grid_sample` a level, weighted and added up."""
    points = samples.points.transpose(1, 2).flatten(0, 1)  # [G, N, P, 3]
    weights = level_weights(points[..., 2], points.new_tensor(CENTRES))
    total = points.new_zeros(())
    for level, (image, stride) in enumerate(zip(samples.maps, STRIDES, strict=True)):
        extent = points.new_tensor([image.shape[3] * stride, image.shape[2] * stride])
        sampled = F.grid_sample(
            image.view(GROUPS, -1, *image.shape[2:]),
            points[..., :2] / extent * 2 - 1,
            padding_mode="zeros",
            align_corners=False,
        )
        total = total + sampled * weights[:, None, ..., level]
    return total.permute(2, 0, 3, 1)[None]


def by_ours(samples: Samples) -> Tensor:
    """[1, N, G, P, C / G]."""
    return sample_pyramid(samples.memory, samples.points, strides=STRIDES, centres=CENTRES)


def compare(setting: Setting) -> list[Comparison]:
    """Without gradients and forward + backward, for 100 and 300 queries."""
    image = QUICK_IMAGE if setting.quick else IMAGE
    rows = []
    for queries in (8,) if setting.quick else (100, 300):
        rows += _compare(make_samples(image, queries), f"3-D sampling, {queries} queries", setting)
    return rows


def _compare(samples: Samples, case: str, setting: Setting) -> list[Comparison]:
    leaves = {by_grid_sample: (samples.points, *samples.maps), by_ours: (samples.points, samples.memory.tokens)}
    forward = {side: torch.no_grad()(partial(side, samples)) for side in leaves}
    both = {side: partial(_output_and_gradients, side, samples, mine) for side, mine in leaves.items()}
    difference = _difference(both)
    return [
        Comparison(
            benchmark="stage_interactor",
            case=f"{case}, {kind}",
            baseline="grid_sample per level",
            theirs=times[by_grid_sample],
            ours=times[by_ours],
            target=Target(at_least=target),
            difference=difference,
            tolerance=1e-3,
        )
        for kind, target, times in (
            ("no gradients", 3.0, interleaved(forward, setting.rounds)),
            ("forward + backward", 1.8, interleaved(both, setting.rounds)),
        )
    ]


def _output_and_gradients(
    side: Callable[[Samples], Tensor], samples: Samples, leaves: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    output = side(samples)
    return output.detach(), *torch.autograd.grad(output, leaves, torch.ones_like(output))


def _difference(sides: Mapping[Callable, Callable[[], tuple[Tensor, ...]]]) -> float:
    """The largest difference in terms of the largest value, over output and gradients."""
    output, of_points, *of_maps = sides[by_grid_sample]()
    of_tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in of_maps], dim=1)
    pairs = zip((output, of_points, of_tokens), sides[by_ours](), strict=True)
    return max(max_difference(first, second) / first.abs().max().item() for first, second in pairs)
