"""Sampling a feature pyramid in three dimensions: place and scale (AdaMixer, CVPR 2022, section 3.2).

As in `deformable.py` one `weighted_rows` reads the tokens in their own layout. Here each point is a bag of its own, of
four corners on each level, and what is computed per point has all points on the last axis: that is what makes it quick
(`python -m benchmarks stage_interactor`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from crossstage.layers.deformable import corner_cells
from crossstage.layers.ops.weighted_rows import weighted_rows
from crossstage.structures import Memory


def level_weights(scales: Tensor, centres: Tensor, *, temperature: float = 2.0) -> Tensor:
    """How much each level counts: softmax over levels of -(scale - centre)^2 / temperature. [...], [L] -> [..., L]."""
    distances = scales - centres.view(-1, *(1,) * scales.dim())
    return (-distances.square() / temperature).softmax(dim=0).movedim(0, -1)  # long rows are quick, as above


def sample_pyramid(
    memory: Memory,
    points: Tensor,
    *,
    strides: Tensor | Sequence[int],
    centres: Tensor | Sequence[float],
    temperature: float = 2.0,
) -> Tensor:
    """Features at points of the pyramid, bilinear in place and soft in level; zeros beyond the padded image.

    points: [B, N, G, P, 3], (x, y) in pixels of the network input and the scale z.  strides: pixels a cell, of each
    level.  centres: the z at which each level counts most.  Returns [B, N, G, P, C / G]: group g reads its own slice
    of the channels. All levels and corners of a point are gathered, weighted and summed in one pass. Where strides and
    centres are tensors on the points' device, a GPU need not wait for them.
    """
    shape = points.shape[:-1]
    batch, _, groups, _ = shape
    tokens, width = memory.tokens.shape[1], memory.tokens.shape[2] // groups
    x, y, z = points.reshape(-1, 3).t().contiguous()  # each [Q], Q = B * N * G * P
    sizes = memory.levels.sizes.to(points.dtype)[..., None]  # [L, 2, 1]
    extent = sizes * torch.as_tensor(strides, dtype=points.dtype, device=points.device)[:, None, None]
    column, share_x = corner_cells(x / extent[:, 0], sizes[:, 0])  # [L, 2, Q]
    row, share_y = corner_cells(y / extent[:, 1], sizes[:, 1])

    # where a value's row lies among all images' tokens and groups: ((image * M + token) * G + group)
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
