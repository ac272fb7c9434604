"""Sampling in place and scale: `grid_sample` on each level, weighted by how near the level's scale is."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from crossstage.layers.sampling import level_weights, sample_pyramid
from crossstage.modeling.encoders.none import NoEncoder
from crossstage.modeling.neck import pyramid
from crossstage.structures import Memory

STRIDES = (4, 8, 16, 32)
CENTRES = (2.0, 3.0, 4.0, 5.0)


def memory_of(maps: list[Tensor]) -> Memory:
    return NoEncoder()(pyramid(maps, torch.zeros(len(maps[0]), 20, 24, dtype=torch.bool)))


def pyramid_maps(height: int = 32, width: int = 64, *, channels: int = 6, levels: int = 4) -> list[Tensor]:
    """Random maps of two images; sizes that a stride does not divide are rounded up."""
    sizes = [(-(-height // stride), -(-width // stride)) for stride in STRIDES[:levels]]
    return [torch.randn(2, channels, *size, dtype=torch.float64) for size in sizes]


def points_around(maps: list[Tensor], *, groups: int = 3, points: int = 5) -> Tensor:
    """[2, 4, G, P, 3]; places up to a third of the map's sides beyond it, scales beyond the levels."""
    extent = torch.tensor([maps[0].shape[-1] * 4.0, maps[0].shape[-2] * 4.0], dtype=torch.float64)
    places = (torch.rand(2, 4, groups, points, 2, dtype=torch.float64) * 5 / 3 - 1 / 3) * extent
    return torch.cat([places, torch.rand(2, 4, groups, points, 1, dtype=torch.float64) * 5 + 1], dim=-1)


def level_by_level(maps: list[Tensor], points: Tensor, centres: tuple[float, ...], temperature: float) -> Tensor:
    """The paper's words: each level's slice of channels by `grid_sample`, then a weighted sum."""
    groups = points.shape[2]
    distance = -((points[..., 2, None] - points.new_tensor(centres)) ** 2) / temperature
    weights = distance.exp() / distance.exp().sum(-1, keepdim=True)
    total = 0
    for level, features in enumerate(maps):
        height, width = features.shape[-2:]
        grid = 2 * points[..., :2] / (points.new_tensor([width, height]) * STRIDES[level]) - 1
        slices = features.unflatten(1, (groups, -1)).flatten(0, 1)
        samples = F.grid_sample(slices, grid.transpose(1, 2).flatten(0, 1), align_corners=False)
        samples = samples.unflatten(0, (-1, groups)).permute(0, 3, 1, 4, 2)  # [B, N, G, P, C / G]
        total = total + samples * weights[..., level, None]
    return total


@pytest.mark.parametrize(("size", "levels", "temperature"), [((32, 64), 4, 2.0), ((20, 28), 3, 0.7), ((64, 4), 1, 2.0)])
def test_samples_are_those_of_grid_sample_and_so_are_gradients(size, levels: int, temperature: float):
    maps = [level.requires_grad_() for level in pyramid_maps(*size, levels=levels)]
    points = points_around(maps).requires_grad_()
    options = {"strides": STRIDES[:levels], "centres": CENTRES[:levels], "temperature": temperature}
    ours = sample_pyramid(memory_of(maps), points, **options)
    theirs = level_by_level(maps, points, options["centres"], temperature)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    seen = torch.randn_like(ours)
    gradients = [torch.autograd.grad(sampled, [points, *maps], seen) for sampled in (ours, theirs)]
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


def test_the_gradient_is_that_of_small_steps():
    maps = pyramid_maps(8, 8, channels=2, levels=2)
    points = points_around(maps, groups=1, points=2)
    assert torch.autograd.gradcheck(
        lambda points, *maps: sample_pyramid(memory_of(list(maps)), points, strides=(4, 8), centres=(2.0, 3.0)),
        [tensor.requires_grad_() for tensor in (points, *maps)],
    )


def test_far_outside_there_is_nothing():
    maps = pyramid_maps()
    points = points_around(maps)
    points[..., 0] = 1e4
    assert sample_pyramid(memory_of(maps), points, strides=STRIDES, centres=CENTRES).count_nonzero() == 0


def test_a_group_reads_its_own_channels_and_an_image_its_own_maps():
    maps = pyramid_maps()
    points = points_around(maps)
    before = sample_pyramid(memory_of(maps), points, strides=STRIDES, centres=CENTRES)
    for level in maps:
        level[1, 2:4] += 1  # the second of three groups, the second of two images
    after = sample_pyramid(memory_of(maps), points, strides=STRIDES, centres=CENTRES)
    changed = (before != after).flatten(3).any(-1).any(1)
    assert changed.tolist() == [[False, False, False], [False, True, False]]


def test_a_points_value_on_a_constant_level_is_the_levels_weight():
    maps = [torch.full_like(level, 10.0**exponent) for exponent, level in enumerate(pyramid_maps())]
    points = torch.tensor([32.0, 16.0, 3.5], dtype=torch.float64).expand(2, 1, 3, 1, 3)
    sampled = sample_pyramid(memory_of(maps), points, strides=STRIDES, centres=CENTRES)
    shares = [math.exp(-((3.5 - centre) ** 2) / 2) for centre in CENTRES]
    expected = sum(share * 10**level for level, share in enumerate(shares)) / sum(shares)
    torch.testing.assert_close(sampled, torch.full_like(sampled, expected))


def test_a_level_counts_most_at_its_own_scale():
    weights = level_weights(torch.tensor([-9.0, 2.0, 3.1, 4.0, 4.9, 30.0]), torch.tensor(CENTRES))
    torch.testing.assert_close(weights.sum(-1), torch.ones(6))
    assert weights.argmax(-1).tolist() == [0, 0, 1, 2, 3, 3]
    assert level_weights(torch.tensor(4.0), torch.tensor(CENTRES), temperature=0.01)[2] > 0.999
