"""Weighted bilinear samples of a feature pyramid as two Triton kernels: the sums, and all gradients in one launch.

A *row* is what is summed for one output vector: L levels with P samples of four corners each. Deformable attention has
a row per query and head, AdaMixer's 3-D sampling a row per query, group and point, with one sample per level.

A program computes BLOCK rows of one head of one image. Neighbouring queries of a head read neighbouring cells, so that
their corners meet in the L1 cache. Its tile is [BLOCK * P, D]; the samples of a row are summed once, after the last
level. Sizes and starts of the levels are read on the device: another image size compiles nothing and waits for nothing.

Values may be bfloat16 or float16. Coordinates, weights and sums are float32 (float64 if the values are). The gradient
of the values is summed in float32 by atomics, so that its last bits differ from run to run.

In a graph that `torch.compile` makes, both kernels are custom operators of torch (`torch.library.custom_op`), so that
it contains them without a break. `triton_op` would also let the compiler look inside, but does not run in Triton's
interpreter, in which the tests run this file on a CPU (TRITON_INTERPRET=1). Outside of such a graph they are launched
directly: as operators, forward and backward took the host half as long again, apart from the launches themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.graph import Node

from crossstage.layers.ops.shared_gradient import parts_of_this_pass
from crossstage.structures import Levels

FORWARD, BACKWARD = (16, 4), (16, 8)  # rows and warps of a program; `benchmarks/gpu/check.py` compares others


def kernel_samples(
    values: Tensor, levels: Levels, *, locations: Tensor, weights: Tensor, shared: Node | None = None
) -> Tensor:
    """Sum the weighted bilinear samples of each row on a GPU; the arguments are those of `bilinear_samples`."""
    compute = torch.promote_types(values.dtype, torch.float32)
    inputs = (
        values.contiguous(),
        levels.sizes.to(compute).contiguous(),
        levels.starts.contiguous(),
        locations.to(compute).contiguous(),
        weights.to(compute).contiguous(),
    )
    return _samples(*inputs) if torch.compiler.is_compiling() else _Samples.apply(*inputs, shared)


def _sums(values: Tensor, sizes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    output = values.new_empty(*weights.shape[:-2], values.shape[-1])
    if output.numel():
        block, warps = FORWARD
        counts, constants = _launch(values, weights)
        with torch.cuda.device_of(values):
            _forward_kernel[_grid(counts[0], block, values)](
                values, locations, weights, sizes, starts, output, *counts, **constants, BLOCK=block, num_warps=warps
            )
    return output


def _gradients_of(
    grad: Tensor, values: Tensor, sizes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor, of_values: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of values, locations and weights; that of the values has no elements unless it is wanted."""
    shape = values.shape if of_values else (0,)
    grad_values = torch.zeros(shape, dtype=weights.dtype, device=values.device)
    others = _add_gradients(grad_values, grad, values, sizes, starts, locations, weights)
    return grad_values.to(values.dtype), *others


def _add_gradients(
    grad_values: Tensor,
    grad: Tensor,
    values: Tensor,
    sizes: Tensor,
    starts: Tensor,
    locations: Tensor,
    weights: Tensor,
) -> tuple[Tensor, Tensor]:
    """Add to the gradient of the values in place, unless it has no elements; the others are returned."""
    grad_locations, grad_weights = torch.empty_like(locations), torch.empty_like(weights)  # the kernel fills them
    if grad.numel():
        block, warps = BACKWARD
        counts, constants = _launch(values, weights)
        with torch.cuda.device_of(values):
            _backward_kernel[_grid(counts[0], block, values)](
                values, locations, weights, sizes, starts, grad, grad_values, grad_locations, grad_weights,
                *counts, **constants, VALUES=grad_values.numel() > 0, BLOCK=block, num_warps=warps,
            )  # fmt: skip
    return grad_locations, grad_weights


_samples = torch.library.custom_op("crossstage::bilinear_samples", _sums, mutates_args=())
_gradients = torch.library.custom_op("crossstage::bilinear_samples_backward", _gradients_of, mutates_args=())


@_samples.register_fake
def _(values: Tensor, sizes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    return values.new_empty(*weights.shape[:-2], values.shape[-1])


@_gradients.register_fake
def _(
    grad: Tensor, values: Tensor, sizes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor, of_values: bool
) -> tuple[Tensor, Tensor, Tensor]:
    of = values.new_empty(values.shape if of_values else (0,))
    return of, torch.empty_like(locations), torch.empty_like(weights)


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(
    ctx: Any, grad: Tensor, gradients: Callable[..., tuple[Tensor, Tensor, Tensor]] = _gradients
) -> tuple[Tensor | None, ...]:
    wanted = ctx.needs_input_grad[0]
    of_values, of_locations, of_weights = gradients(grad.contiguous(), *ctx.saved_tensors, wanted)
    return of_values if wanted else None, None, None, of_locations, of_weights


_samples.register_autograd(_backward, setup_context=_keep)


class _Samples(torch.autograd.Function):
    """`_samples` outside of a compiled graph. With `shared`, each launch adds to one float32 gradient of the values."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        *tensors, ctx.shared = inputs
        ctx.save_for_backward(*tensors)
        return _sums(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad = grad.contiguous()
        parts = parts_of_this_pass(ctx.shared, total=_only) if ctx.needs_input_grad[0] else None
        if parts is None:
            # The operator refuses to be differentiated again; a direct launch would pass for a constant.
            return *_backward(ctx, grad, _gradients if torch.is_grad_enabled() else _gradients_of), None
        values, sizes, starts, locations, weights = ctx.saved_tensors
        if not parts:
            parts.append(torch.zeros(values.shape, dtype=weights.dtype, device=values.device))
        others = _add_gradients(parts[0], grad, values, sizes, starts, locations, weights)
        return None, None, None, *others, None


def _only(parts: list[Tensor]) -> Tensor:
    return parts[0]


def _launch(values: Tensor, weights: Tensor) -> tuple[tuple[int, int, int], dict[str, int]]:
    """What both kernels are called with: rows per head and image, tokens, heads; and the constants of the shapes."""
    tokens, heads, width = values.shape[1:]
    levels, points = weights.shape[-2:]
    inner = weights.shape[3] if weights.dim() == 6 else 1
    constants = {"LEVELS": levels, "POINTS": points, "WIDTH": width, "INNER": inner}
    constants |= {"POINTS_2": triton.next_power_of_2(points), "WIDTH_2": triton.next_power_of_2(width)}
    return (weights.shape[1] * inner, tokens, heads), constants


def _grid(rows: int, block: int, values: Tensor) -> tuple[int, int, int]:
    return triton.cdiv(rows, block), values.shape[2], values.shape[0]


@triton.jit
def _neighbours(coordinate, size):
    """Along one axis: the lower cell, the upper cell's share, and whether each is on the map (NaN: neither)."""
    position = coordinate * size - 0.5
    low = tl.floor(position)
    return low, position - low, (low >= 0) & (low < size), (low >= -1) & (low < size - 1)


@triton.jit
def _corners(location, exists, width, height, first):
    """The token of each sample's upper left cell, and both axes' `_neighbours`. first: the level's first token."""
    left, share_x, in_left, in_right = _neighbours(tl.load(location, mask=exists, other=-9.0), width)
    top, share_y, in_top, in_bottom = _neighbours(tl.load(location + 1, mask=exists, other=-9.0), height)
    token = first + top.to(tl.int32) * width.to(tl.int32) + left.to(tl.int32)
    return token, share_x, in_left, in_right, share_y, in_top, in_bottom


@triton.jit
def _row_of(rows, heads, head, image, item, INNER: tl.constexpr, PER_ROW: tl.constexpr, BLOCK: tl.constexpr):
    """Number of the row of an item of the tile, in the layout [B, N, H, I], and whether that row exists."""
    row = tl.program_id(0) * BLOCK + item // PER_ROW
    place = image.to(tl.int64) * rows * heads + (row // INNER) * (heads * INNER) + head * INNER + row % INNER
    return place, row < rows


@triton.jit(do_not_specialize=["rows", "tokens"])
def _forward_kernel(
    values, locations, weights, sizes, starts, output, rows, tokens, heads,
    LEVELS: tl.constexpr, POINTS: tl.constexpr, WIDTH: tl.constexpr, INNER: tl.constexpr,
    POINTS_2: tl.constexpr, WIDTH_2: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    head, image = tl.program_id(1), tl.program_id(2)
    item = tl.arange(0, BLOCK * POINTS_2)
    point = item % POINTS_2
    row, exists = _row_of(rows, heads, head, image, item, INNER, POINTS_2, BLOCK)
    exists = exists & (point < POINTS)
    channel = tl.arange(0, WIDTH_2)
    used = (channel < WIDTH)[None, :]
    own = values + (image.to(tl.int64) * tokens * heads + head) * WIDTH + channel[None, :]
    step = heads * WIDTH  # from a token to the next one of the same head
    total = tl.zeros([BLOCK * POINTS_2, WIDTH_2], weights.dtype.element_ty)
    for level in range(LEVELS):
        sample = (row * LEVELS + level) * POINTS + point
        width, height = tl.load(sizes + 2 * level), tl.load(sizes + 2 * level + 1)
        columns, weight = width.to(tl.int32), tl.load(weights + sample, mask=exists, other=0.0)
        token, share_x, in_left, in_right, share_y, in_top, in_bottom = _corners(
            locations + 2 * sample, exists, width, height, tl.load(starts + level).to(tl.int32)
        )
        for corner in tl.static_range(4):
            right, bottom = corner % 2, corner // 2
            inside = (in_bottom if bottom else in_top) & (in_right if right else in_left)
            share = (share_y if bottom else 1 - share_y) * (share_x if right else 1 - share_x) * weight
            cell = tl.where(inside, token + (columns if bottom else 0) + right, 0)
            value = tl.load(own + cell[:, None] * step, mask=inside[:, None] & used, other=0.0)
            total += tl.where(inside, share, 0.0)[:, None] * value.to(total.dtype)
    total = tl.sum(tl.reshape(total, [BLOCK, POINTS_2, WIDTH_2]), axis=1)
    row, exists = _row_of(rows, heads, head, image, tl.arange(0, BLOCK), INNER, 1, BLOCK)
    place = output + row[:, None] * WIDTH + channel[None, :]
    tl.store(place, total.to(output.dtype.element_ty), mask=exists[:, None] & used)


@triton.jit(do_not_specialize=["rows", "tokens"])
def _backward_kernel(
    values, locations, weights, sizes, starts, grad, grad_values, grad_locations, grad_weights,
    rows, tokens, heads,
    LEVELS: tl.constexpr, POINTS: tl.constexpr, WIDTH: tl.constexpr, INNER: tl.constexpr,
    POINTS_2: tl.constexpr, WIDTH_2: tl.constexpr, BLOCK: tl.constexpr, VALUES: tl.constexpr,
):  # fmt: skip
    head, image = tl.program_id(1), tl.program_id(2)
    item = tl.arange(0, BLOCK * POINTS_2)
    point = item % POINTS_2
    row, exists = _row_of(rows, heads, head, image, item, INNER, POINTS_2, BLOCK)
    exists = exists & (point < POINTS)
    channel = tl.arange(0, WIDTH_2)
    used = (channel < WIDTH)[None, :]
    first = (image.to(tl.int64) * tokens * heads + head) * WIDTH
    own, own_grad = values + first + channel[None, :], grad_values + first + channel[None, :]
    step = heads * WIDTH
    slope = tl.load(grad + row[:, None] * WIDTH + channel[None, :], mask=exists[:, None] & used, other=0.0)
    slope = slope.to(weights.dtype.element_ty)
    for level in range(LEVELS):
        sample = (row * LEVELS + level) * POINTS + point
        width, height = tl.load(sizes + 2 * level), tl.load(sizes + 2 * level + 1)
        columns, weight = width.to(tl.int32), tl.load(weights + sample, mask=exists, other=0.0)
        token, share_x, in_left, in_right, share_y, in_top, in_bottom = _corners(
            locations + 2 * sample, exists, width, height, tl.load(starts + level).to(tl.int32)
        )
        by_weight = tl.zeros_like(weight)
        by_x = tl.zeros_like(weight)
        by_y = tl.zeros_like(weight)
        for corner in tl.static_range(4):
            right, bottom = corner % 2, corner // 2
            inside = (in_bottom if bottom else in_top) & (in_right if right else in_left)
            part_x = tl.where(inside, share_x if right else 1 - share_x, 0.0)
            part_y = tl.where(inside, share_y if bottom else 1 - share_y, 0.0)
            cell = tl.where(inside, token + (columns if bottom else 0) + right, 0)
            value = tl.load(own + cell[:, None] * step, mask=inside[:, None] & used, other=0.0)
            dot = tl.sum(value.to(slope.dtype) * slope, axis=1)  # 0 for a corner outside the map
            by_weight += part_x * part_y * dot
            by_x += (part_y if right else -part_y) * dot
            by_y += (part_x if bottom else -part_x) * dot
            if VALUES:
                given = slope * (part_x * part_y * weight)[:, None]
                tl.atomic_add(own_grad + cell[:, None] * step, given, mask=inside[:, None] & used, sem="relaxed")
        tl.store(grad_weights + sample, by_weight, mask=exists)
        tl.store(grad_locations + 2 * sample, by_x * weight * width, mask=exists)
        tl.store(grad_locations + 2 * sample + 1, by_y * weight * height, mask=exists)
