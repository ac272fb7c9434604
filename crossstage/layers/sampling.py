"""Sampling a feature pyramid at (x, y, scale), as in AdaMixer (CVPR 2022, section 3.2).

As in `deformable.py`, one `weighted_rows` reads the tokens without a copy. Here each point is one bag, which holds
four cells of every level. All per-point values keep the points on the last axis, because this is faster
(`python -m benchmarks stage_interactor`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from crossstage.layers.deformable import corner_cells
from crossstage.layers.ops.weighted_rows import weighted_rows
from crossstage.structures import Memory


def level_weights(scales: Tensor, centres: Tensor, *, temperature: float = 2.0) -> Tensor:
    """Weight of each level at a point: softmax over the levels of -(scale - centre)^2 / temperature.

    Args:
        scales: scale of each point, [...].
        centres: [L], the scale at which each level has its largest weight.
        temperature: larger values spread the weight over more levels.

    Returns:
        [..., L].
    """
    distances = scales - centres.view(-1, *(1,) * scales.dim())
    return (-distances.square() / temperature).softmax(dim=0).movedim(0, -1)  # points last until here: faster


def sample_pyramid(
    memory: Memory,
    points: Tensor,
    *,
    strides: Tensor | Sequence[int],
    centres: Tensor | Sequence[float],
    temperature: float = 2.0,
) -> Tensor:
    """Features at points of the pyramid: bilinear within a level, weighted over the levels, zero outside the image.

    Give strides and centres as tensors on the device of the points to avoid a copy per call.

    Args:
        memory: the tokens of the pyramid.
        points: [B, N, G, P, 3], (x, y) in pixels of the network input, and the scale z.
        strides: [L], pixels per cell of each level.
        centres: [L], the z at which each level has its largest weight.
        temperature: see `level_weights`.

    Returns:
        [B, N, G, P, C / G]: group g reads the g-th slice of the channels.
    """
    shape = points.shape[:-1]
    batch, _, groups, _ = shape
    tokens, width = memory.tokens.shape[1], memory.tokens.shape[2] // groups
    x, y, z = points.reshape(-1, 3).t().contiguous()  # each [Q], Q = B * N * G * P
    sizes = memory.levels.sizes.to(points.dtype)[..., None]  # [L, 2, 1]
    extent = sizes * torch.as_tensor(strides, dtype=points.dtype, device=points.device)[:, None, None]
    column, share_x = corner_cells(x / extent[:, 0], sizes[:, 0])  # [L, 2, Q]
    row, share_y = corner_cells(y / extent[:, 1], sizes[:, 1])

    # A value is row (image * M + token) * G + group of the flattened tokens.
    image = torch.arange(batch, dtype=torch.int32, device=points.device).view(batch, 1, 1, 1) * (tokens * groups)
    group = torch.arange(groups, dtype=torch.int32, device=points.device).view(groups, 1)
    first = memory.levels.starts.to(torch.int32)[:, None] * groups + (image + group).expand(shape).flatten()
    column = column.mul_(groups).add_(first[:, None])
    row = row.mul_(memory.levels.sizes[:, :1, None].to(torch.int32) * groups)
    centres = torch.as_tensor(centres, dtype=points.dtype, device=points.device)
    weights = share_y * level_weights(z, centres, temperature=temperature).t()[:, None]
    bags = weighted_rows(
        memory.tokens.reshape(-1, width),
        _by_point(row[:, :, None] + column[:, None]),
        _by_point(weights[:, :, None] * share_x[:, None]).to(memory.tokens.dtype),
    )
    return bags.view(*shape, width)


def _by_point(corners: Tensor) -> Tensor:
    """[L, 2, 2, Q] -> [Q, 4 * L]."""
    return corners.flatten(0, 2).t().contiguous()
