"""L1 distance and GIoU of matched boxes, summed, with a gradient that is written out.

Both passes take about 90 operations on tensors. Autograd takes 170, because each minimum and each maximum has seven in
its gradient, and it keeps most of what it computed; here two tensors are kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def box_sums(boxes: Tensor, objects: Tensor, matched: Tensor, *, corners: bool, eps: float) -> tuple[Tensor, Tensor]:
    """Sum the L1 distance and 1 - GIoU of matched boxes over all but the first axis.

    Args:
        boxes: normalised cxcywh, [S, ..., 4].
        objects: the object of each box, normalised cxcywh, [S, ..., 4]. They get no gradient.
        matched: bool [S, ...]. A box without an object counts nothing, whatever it is, and gets no gradient.
        corners: whether L1 compares (x1, y1, x2, y2) or (cx, cy, w, h).
        eps: added to the denominators of GIoU.

    Returns:
        Both sums, each [S]. There is no double backward.
    """
    return _BoxSums.apply(boxes, objects, matched, corners, eps)


class _BoxSums(torch.autograd.Function):
    """`box_sums`; the forward pass also computes the gradients, with x and y of all boxes as rows of [2, S, ...]."""

    @staticmethod
    def forward(
        ctx: Any, boxes: Tensor, objects: Tensor, matched: Tensor, corners: bool, eps: float
    ) -> tuple[Tensor, Tensor]:
        first = torch.where(matched[..., None], boxes, objects).movedim(-1, 0).contiguous()
        second = objects.movedim(-1, 0).contiguous()
        (low, high), (other_low, other_high) = _corners(first), _corners(second)
        to_low, to_high = low - other_low, high - other_high
        differences = (*to_low, *to_high) if corners else (first - second).unbind()
        x, y, width, height = (difference.abs() for difference in differences)
        distance = x + y + width + height

        inner = (torch.minimum(high, other_high) - torch.maximum(low, other_low)).relu_()
        hull = (torch.maximum(high, other_high) - torch.minimum(low, other_low)).relu_()
        sides, other_sides = high - low, other_high - other_low
        common, around = inner[0] * inner[1], hull[0] * hull[1]
        union = (sides[0] * sides[1] + other_sides[0] * other_sides[1]).sub_(common)
        filled, spread = union + eps, around + eps
        overlap = common / filled
        giou = overlap - (around - union) / spread

        if ctx.needs_input_grad[0]:
            by_union = 1 / spread - overlap / filled
            by_common, by_around = 1 / filled - by_union, -(filled / spread) / spread
            # Half the derivative by each side of the intersection and of the hull, which other sides multiply.
            by_inner = (inner > 0) * inner.flip(0) * (by_common / 2)
            by_hull = (hull > 0) * hull.flip(0) * (by_around / 2)
            # A corner inside the object's moves the intersection, one outside the hull, and an equal one half of both.
            low_sign, high_sign = to_low.sgn_(), to_high.sgn_()
            either, one = by_inner + by_hull, by_inner - by_hull
            moved = (low_sign + high_sign).mul_(one)
            scaled = sides.flip(0).mul_(by_union).add_(either).add_((low_sign - high_sign).mul_(one), alpha=0.5)
            of_giou = torch.cat([moved, scaled.neg_()])
            of_distance = _of_centre_and_size(low_sign, high_sign) if corners else (first - second).sgn_()
            unmatched = ~matched
            ctx.save_for_backward(of_distance.masked_fill_(unmatched, 0), of_giou.masked_fill_(unmatched, 0))
        return distance.flatten(1).sum(-1), ((1 - giou) * matched).flatten(1).sum(-1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_distance: Tensor, grad_giou: Tensor) -> tuple[Tensor | None, ...]:
        of_distance, of_giou = ctx.saved_tensors
        stages = (-1, *[1] * (of_giou.dim() - 2))
        gradient = of_distance * grad_distance.view(stages) + of_giou * grad_giou.view(stages)
        return gradient.movedim(0, -1), None, None, None, None


def _corners(cxcywh: Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper corners of boxes [4, ...], each [2, ...]."""
    centre, size = cxcywh[:2], cxcywh[2:]
    return centre.sub(size, alpha=0.5), centre.add(size, alpha=0.5)


def _of_centre_and_size(of_low: Tensor, of_high: Tensor) -> Tensor:
    """Derivatives by corners, [2, ...] each -> by centre and size, [4, ...]."""
    return torch.cat([of_low + of_high, (of_high - of_low).mul_(0.5)])
