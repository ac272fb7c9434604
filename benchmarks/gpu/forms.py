"""Several implementations of deformable sampling with one signature.

values: [B, M, H, D].  locations: [B, N, H, L, P, 2] in [0, 1].  weights: [B, N, H, L, P].  Returns [B, N, H * D].
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.gpu.kernels import sampling_by_kernels
from crossstage.layers.deformable import deformable_sampling
from crossstage.structures import Levels


def bag_form(values: Tensor, levels: Levels, *, locations: Tensor, weights: Tensor) -> Tensor:
    """The project's path without a kernel; half-precision values are summed in the precision of the locations."""
    with sampling_by_kernels(False):
        return deformable_sampling(values, levels, locations=locations, weights=weights)


def grid_form(values: Tensor, levels: Levels, *, locations: Tensor, weights: Tensor) -> Tensor:
    """`grid_sample` per level, the usual fallback without a compiled op."""
    batch, _, heads, width = values.shape
    queries = locations.shape[1]
    values = values.to(locations.dtype)
    samples = []
    for level, ((rows, columns), tokens) in enumerate(zip(levels.shapes, values.split(levels.tokens, 1), strict=True)):
        maps = tokens.flatten(2).transpose(1, 2).reshape(batch * heads, width, rows, columns)
        grid = (2 * locations[:, :, :, level] - 1).transpose(1, 2).flatten(0, 1)
        samples.append(F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
    shares = weights.transpose(1, 2).reshape(batch * heads, 1, queries, -1)
    total = (torch.stack(samples, -2).flatten(-2) * shares).sum(-1)
    return total.view(batch, heads * width, queries).transpose(1, 2).contiguous()


def gather_form(values: Tensor, levels: Levels, *, locations: Tensor, weights: Tensor) -> Tensor:
    """Plain indexing, which inductor can fuse as a whole: reading, weighting, summing; atomics in the backward pass."""
    batch, _, heads, _ = values.shape
    sizes, starts = levels.sizes, levels.starts
    position = locations * sizes[:, None] - 0.5
    low = position.detach().floor()
    share = position - low
    image = torch.arange(batch, device=values.device)[:, None, None, None, None]
    head = torch.arange(heads, device=values.device)[:, None, None]
    total = 0
    for dy in (0, 1):
        for dx in (0, 1):
            x, y = low[..., 0] + dx, low[..., 1] + dy
            inside = (x >= 0) & (y >= 0) & (x < sizes[:, None, 0]) & (y < sizes[:, None, 1])
            part = (share[..., 0] if dx else 1 - share[..., 0]) * (share[..., 1] if dy else 1 - share[..., 1])
            token = torch.where(inside, starts[:, None] + y.long() * sizes[:, None, 0].long() + x.long(), 0)
            total = total + values[image, token, head] * torch.where(inside, part * weights, 0)[..., None]
    return total.sum((3, 4)).flatten(2)


def deformops_form(values: Tensor, levels: Levels, *, locations: Tensor, weights: Tensor) -> Tensor:
    """The package deformops, where it is installed; it takes one dtype for all."""
    from deformops.registry import msda

    shapes = shapes_tensor(levels.shapes, values.device)
    return msda(values.to(locations.dtype), shapes, levels.starts, locations, weights.flatten(-2)).flatten(2)


@cache
def shapes_tensor(shapes: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    """The (rows, columns) of the levels as int64 [L, 2], copied to the device once."""
    return torch.tensor(shapes, device=device)


def gradients(form, values: Tensor, levels: Levels, locations: Tensor, weights: Tensor, up: Tensor) -> list[Tensor]:
    """The output of a form and the gradients of values, locations and weights."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (values, locations, weights)]
    out = form(leaves[0], levels, locations=leaves[1], weights=leaves[2])
    return [out.detach(), *torch.autograd.grad(out, leaves, up.to(out.dtype))]
