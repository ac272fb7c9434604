"""Weighted bilinear samples of a feature pyramid: what deformable attention and AdaMixer's 3-D sampling both read.

Two forms compute the same values. On a CUDA device with Triton it is the kernel pair of `bilinear_triton.py`, which
reads the values in their own dtype. Everywhere else it is `weighted_rows`: the cells around each sample are rows of
the flattened values, so that no feature map is permuted or copied and no sampled value is stored. A graph that is
exported always has the second form, because other runtimes do not have the kernels.
`python -m benchmarks attention` and `stage_interactor` show the speed on a CPU, `benchmarks/gpu/check.py` on a GPU.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.graph import Node

from crossstage.layers.ops.corners import corners
from crossstage.layers.ops.exporting import exporting
from crossstage.layers.ops.weighted_rows import weighted_rows
from crossstage.structures import Levels

WIDEST = 128  # channels per head that fit the kernel's registers
FEW_SAMPLES = 6  # below this number of samples per row, long axes of rows are faster than short axes of samples


def bilinear_samples(
    values: Tensor, levels: Levels, *, locations: Tensor, weights: Tensor, shared: Node | None = None
) -> Tensor:
    """Sum the weighted bilinear samples of each row.

    Pixel centres are at (i + 0.5) / size, as for `grid_sample` with align_corners=False. Samples outside a level, and
    those with a NaN or infinite location, count as zero and have no gradient.

    Args:
        values: [B, M, H, D], D channels for each of H heads, in float32, float64, bfloat16 or float16.
        levels: sizes of the L levels, whose tokens are concatenated on the M axis.
        locations: [B, N, H, L, P, 2] or [B, N, H, I, L, P, 2], (x, y) in [0, 1] of each padded level, in at least
            float32. With I, each head has I rows that are summed separately.
        weights: [B, N, H, L, P] or [B, N, H, I, L, P], in the dtype of the locations.
        shared: `sharing_node` of the tensor that the values are a view of: its gradient is collected there.

    Returns:
        [B, N, H, D] or [B, N, H, I, D], in the dtype of the values.
    """
    if _on_kernel(values):
        return _kernel()(values, levels, locations=locations, weights=weights, shared=shared)
    batch, tokens, heads, width = values.shape
    shape, (num_levels, num_points) = weights.shape[:-2], weights.shape[-2:]
    by_row = _samples_first if num_levels * num_points < FEW_SAMPLES else _samples_last
    # A value is row (image * M + token) * H + head of the flattened values.
    image = torch.arange(batch, dtype=torch.int32, device=values.device) * (tokens * heads)
    head = torch.arange(heads, dtype=torch.int32, device=values.device)
    first = (image[:, None] + head).view(batch, 1, heads, *(1,) * (len(shape) - 3)).expand(shape)
    rows, shares = by_row(levels, heads, first, locations, weights)
    dtype = torch.promote_types(values.dtype, weights.dtype)
    bags = weighted_rows(values.flatten(0, 2).to(dtype), rows, shares.to(dtype), shared=shared)
    return bags.view(*shape, width).to(values.dtype)


def _samples_last(
    levels: Levels, heads: int, first: Tensor, locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """The rows of values that each row reads, and their weights, each [Q, 4 * L * P].

    first: int32 [Q in its shape], the first row of values of each row's image and head.
    """
    repeats = weights.shape[-1]
    sizes = levels.sizes.to(locations.dtype).repeat_interleave(repeats, dim=0).t()[:, None]  # [2, 1, L * P]
    points = locations.flatten(0, -4).flatten(1, 2)  # [Q, L * P, 2]
    column, row, shares = corners(points, weights.flatten(0, -3).flatten(1), sizes)
    strides, starts = _row_strides(levels, heads, repeats)
    column = column.mul_(heads).add_(first.reshape(-1, 1, 1))
    row = row.mul_(strides).add_(starts)
    return (row[:, :, None] + column[:, None]).flatten(1), shares.flatten(1)


def _samples_first(
    levels: Levels, heads: int, first: Tensor, locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """As `_samples_last`, computed with the rows on the last axis: faster where a row has few samples."""
    repeats = weights.shape[-1]
    sizes = levels.sizes.to(locations.dtype).repeat_interleave(repeats, dim=0).t()[..., None]  # [2, L * P, 1]
    points = locations.flatten(0, -4).flatten(1, 2).permute(2, 1, 0).contiguous().permute(1, 2, 0)  # [L * P, Q, 2]
    column, row, shares = corners(points, weights.flatten(0, -3).flatten(1).t().contiguous(), sizes)
    strides, starts = _row_strides(levels, heads, repeats)
    column = column.mul_(heads).add_((starts[:, None] + first.flatten())[:, None])
    row = row.mul_(strides[:, None, None])
    return _by_row(row[:, :, None] + column[:, None]), _by_row(shares)


def _row_strides(levels: Levels, heads: int, repeats: int) -> tuple[Tensor, Tensor]:
    """int32 [L * P] each: rows of values from one row of a sample's map to the next, and before its level."""
    widths, starts = (of_level.to(torch.int32) * heads for of_level in (levels.sizes[:, 0], levels.starts))
    return widths.repeat_interleave(repeats), starts.repeat_interleave(repeats)


def _by_row(corners: Tensor) -> Tensor:
    """[L * P, 2, 2, Q] -> [Q, 4 * L * P]."""
    return corners.flatten(0, 2).t().contiguous()


def _on_kernel(values: Tensor) -> bool:
    """Whether the kernels compute this call.

    They do not in deterministic mode: the kernel adds up the gradient of the values by atomics, whose order differs
    from run to run.
    """
    return (
        values.is_cuda
        and values.dtype in (torch.float32, torch.bfloat16, torch.float16)
        and values.shape[-1] <= WIDEST
        and _has_triton()
        and not torch.are_deterministic_algorithms_enabled()
        and not exporting()
    )


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _kernel() -> Callable[..., Tensor]:
    """The kernels' function. Triton is imported with the first call on a GPU, and never on a CPU."""
    from crossstage.layers.ops.bilinear_triton import kernel_samples

    return kernel_samples
