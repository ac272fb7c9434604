"""The four cells around each bilinear sample, and how much of each the sample takes.

The gradients are written out, because autograd's take twice as long: it handles all four corners of a sample one
by one where the sums along an axis are enough. In a graph that is compiled or exported they are autograd's, of the same
operations. `python -m benchmarks attention` shows the speed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from crossstage.layers.ops.exporting import exporting


def corners(points: Tensor, weights: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The corner cells of samples and their shares, times the samples' weights.

    Pixel centres are at (i + 0.5) / size. A corner outside the map, or of a sample whose location is NaN or infinite,
    has share 0 and no gradient. At a pixel's centre the gradient is the one towards larger coordinates.

    Args:
        points: [A, B, 2], (x, y) of each sample in [0, 1] of its map, in at least float32.
        weights: [A, B], in the same dtype.
        sizes: [2, A, B] or broadcast to it, width and height of each sample's map, without gradient.

    Returns:
        int32 [A, 2, B]: the columns of the cells; for a cell outside the map, the nearest one inside.
        int32 [A, 2, B]: their rows.
        [A, 2, 2, B]: the shares by row and column.
    """
    if torch.compiler.is_compiling() or exporting():
        (columns, of_column, _), (rows, of_row, _) = map(_along_axis, points.unbind(-1), sizes)
        return columns, rows, _weighted(weights, of_column, of_row)
    return _Corners.apply(points, weights, sizes)


def _along_axis(coordinates: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The two neighbouring cells of each point along one axis.

    Args:
        coordinates: [A, B] in [0, 1].
        size: number of cells along the axis, broadcast with `coordinates`.

    Returns:
        int32 [A, 2, B]: indices of the cells; for a cell outside the map, the nearest cell inside.
        [A, 2, B]: their shares; 0 for a cell outside the map.
        bool [A, 2, B]: whether a cell is outside the map.
    """
    position = coordinates * size - 0.5
    low = position.detach().floor()
    upper_share = position - low
    cells = low.unsqueeze(-2) + torch.arange(2, dtype=low.dtype, device=low.device)[:, None]
    inside = torch.minimum(cells.clamp(min=0), size.unsqueeze(-2) - 1)
    outside = inside != cells
    shares = torch.stack([1 - upper_share, upper_share], dim=-2).masked_fill_(outside, 0)
    # int32 is enough: 2**31 rows of values would be 256 GB. A NaN becomes the lowest integer or 0; the clamp makes
    # both a valid index.
    return inside.to(torch.int32).clamp_(min=0), shares, outside


def _weighted(weights: Tensor, of_column: Tensor, of_row: Tensor) -> Tensor:
    """[A, 2, 2, B] of [A, B] and the shares along each axis, [A, 2, B]."""
    return (weights[:, None] * of_row)[:, :, None] * of_column[:, None]


class _Corners(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, points: Tensor, weights: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (columns, of_column, outside_x), (rows, of_row, outside_y) = map(_along_axis, points.unbind(-1), sizes)
        ctx.save_for_backward(weights, sizes, of_column, of_row, outside_x, outside_y)
        ctx.mark_non_differentiable(columns, rows)
        ctx.strides = torch.empty_like(points, device="meta").stride()  # of a dense tensor, if the points are expanded
        return columns, rows, _weighted(weights, of_column, of_row)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor, __: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        weights, sizes, of_column, of_row, outside_x, outside_y = ctx.saved_tensors
        (left, right), (top, bottom) = of_column.unbind(1), of_row.unbind(1)
        (top_left, top_right), (bottom_left, bottom_right) = (of_row.unbind(1) for of_row in grad.unbind(1))
        along_x = _dot(top_left, top, bottom_left, bottom), _dot(top_right, top, bottom_right, bottom)
        along_y = _dot(top_left, left, top_right, right), _dot(bottom_left, left, bottom_right, right)
        of_weights = _dot(along_y[0], top, along_y[1], bottom)
        of_points = torch.empty_strided((*weights.shape, 2), ctx.strides, dtype=grad.dtype, device=grad.device)
        for axis, ((low, high), outside) in enumerate(((along_x, outside_x), (along_y, outside_y))):
            # Towards larger coordinates the share of the first cell falls by 1 per cell, and that of the second rises.
            has_low, has_high = outside.logical_not().to(grad.dtype).unbind(1)
            rise = high.mul_(has_high).addcmul_(low, has_low, value=-1)
            torch.mul(rise.mul_(weights), sizes[axis], out=of_points[..., axis])
        return of_points, of_weights, None


def _dot(first: Tensor, share: Tensor, second: Tensor, other_share: Tensor) -> Tensor:
    return (first * share).addcmul_(second, other_share)
