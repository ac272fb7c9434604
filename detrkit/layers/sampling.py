"""Sampling a feature pyramid in three dimensions: place and scale (AdaMixer, CVPR 2022, section 3.2)."""

from collections.abc import Sequence

from torch import Tensor

from detrkit.layers.deformable import deformable_sampling
from detrkit.structures import Memory


def level_weights(scales: Tensor, centres: Tensor, *, temperature: float = 2.0) -> Tensor:
    """How much each level counts: softmax over levels of -(scale - centre)^2 / temperature. [...], [L] -> [..., L]."""
    return (-(scales[..., None] - centres).square() / temperature).softmax(dim=-1)


def sample_pyramid(
    memory: Memory, points: Tensor, *, strides: Sequence[int], centres: Sequence[float], temperature: float = 2.0
) -> Tensor:
    """Features at points of the pyramid, bilinear in place and soft in level; zeros beyond the padded image.

    points: [B, N, G, P, 3], (x, y) in pixels of the network input and the scale z.  strides: pixels a cell, of each
    level.  centres: the z at which each level counts most.  Returns [B, N, G, P, C / G]: group g reads its own slice
    of the channels. All levels and corners of a point are gathered, weighted and summed in one pass.
    """
    batch, queries, groups, num_points, _ = points.shape
    pixels = memory.levels.sizes.to(points.dtype) * points.new_tensor(strides)[:, None]  # [L, 2]
    points = points.transpose(2, 3)  # the sampling core has heads inside, points outside: [B, N, P, G, 3]
    weights = level_weights(points[..., 2], points.new_tensor(centres), temperature=temperature)
    places = points[..., None, :2] / pixels  # [B, N, P, G, L, 2]
    sampled = deformable_sampling(
        memory.tokens.unflatten(-1, (groups, -1)),
        memory.levels,
        locations=places.flatten(1, 2).unsqueeze(-2),
        weights=weights.flatten(1, 2).unsqueeze(-1),
    )
    return sampled.view(batch, queries, num_points, groups, -1).transpose(2, 3)
