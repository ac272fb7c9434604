"""Box arithmetic. Every function broadcasts over leading axes; boxes are [..., 4]."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from crossstage.layers.box_sums import box_sums

Sides = tuple[Tensor, ...]
"""The four coordinates as separate tensors. A CPU computes faster on long rows of one coordinate."""


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """[..., 4] centre and size -> [..., 4] corners, in the same unit."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def xyxy_to_cxcywh(boxes_xyxy: Tensor) -> Tensor:
    """[..., 4] corners -> [..., 4] centre and size, in the same unit."""
    low, high = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def box_area(boxes_xyxy: Tensor) -> Tensor:
    """[..., 4] corners -> [...] area. It is negative if exactly one side is inverted."""
    return (boxes_xyxy[..., 2] - boxes_xyxy[..., 0]) * (boxes_xyxy[..., 3] - boxes_xyxy[..., 1])


def intersection_and_union(first_xyxy: Tensor, second_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """Areas of the intersection and of the union: [..., 4], [..., 4] corners, broadcast -> [...], [...]."""
    return _intersection_and_union(first_xyxy.unbind(-1), second_xyxy.unbind(-1))


def _intersection_and_union(first: Sides, second: Sides) -> tuple[Tensor, Tensor]:
    width = torch.minimum(first[2], second[2]).sub_(torch.maximum(first[0], second[0])).relu_()
    height = torch.minimum(first[3], second[3]).sub_(torch.maximum(first[1], second[1])).relu_()
    intersection = width * height
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (first, second)]
    return intersection, (areas[0] + areas[1]).sub_(intersection)


def box_iou(first_xyxy: Tensor, second_xyxy: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Intersection over (union + eps), element by element.

    For all pairs of two sets of boxes, insert axes: `box_iou(first[:, None], second[None])`.

    Args:
        first_xyxy: corners, [..., 4].
        second_xyxy: corners, [..., 4], broadcast with the first.
        eps: added to the union; the default is detrex's. A box with itself therefore gives slightly less than 1.

    Returns:
        [...].
    """
    intersection, union = intersection_and_union(first_xyxy, second_xyxy)
    return intersection / (union + eps)


def iou_by_coordinate(first: Sides, second: Sides) -> Tensor:
    """Plain IoU of boxes given as four tensors cx, cy, w, h, broadcast; 0 for boxes without area.

    Rows of one coordinate suit a processor's vector units better than rows of four.
    """
    return BoxPairs(first, second).iou()


def generalized_box_iou(first_xyxy: Tensor, second_xyxy: Tensor, *, eps: float = 1e-6) -> Tensor:
    """GIoU (Rezatofighi et al., CVPR 2019), element by element.

    Args:
        first_xyxy: corners, [..., 4].
        second_xyxy: corners, [..., 4], broadcast with the first.
        eps: added to both denominators; the default is detrex's.

    Returns:
        [...] in (-1, 1).
    """
    first, second = first_xyxy.unbind(-1), second_xyxy.unbind(-1)
    return _generalized_box_iou(first, second, *_intersection_and_union(first, second), eps=eps)


def _generalized_box_iou(first: Sides, second: Sides, intersection: Tensor, union: Tensor, *, eps: float) -> Tensor:
    width = torch.maximum(first[2], second[2]).sub_(torch.minimum(first[0], second[0])).relu_()
    height = torch.maximum(first[3], second[3]).sub_(torch.minimum(first[1], second[1])).relu_()
    hull = width * height
    return (intersection / (union + eps)).sub_((hull - union) / (hull + eps))


def inverse_sigmoid(values: Tensor, *, eps: float = 1e-3) -> Tensor:
    """Compute log(x / (1 - x)). x is clamped to [0, 1]; x and 1 - x are then clamped to at least `eps`.

    The gradient is zero at 0, at 1 and outside. (torch's own gradient at the border of a clamp depends on its version.)

    Args:
        values: any shape.
        eps: detrex and its released weights use 1e-3, the original repositories 1e-5.

    Returns:
        The shape of `values`.
    """
    values = torch.where((values > 0) & (values < 1), values, values.detach().clamp(min=0, max=1))
    return torch.log(values.clamp(min=eps) / (1 - values).clamp(min=eps))


def refine_boxes(boxes: Tensor, offsets: Tensor) -> Tensor:
    """Move boxes by predicted offsets, which are added to the logits of the boxes (Deformable-DETR, A.4).

    Args:
        boxes: [..., 4], normalised cxcywh.
        offsets: [..., 4], from a box head. An offset of 0 leaves its coordinate unchanged.

    Returns:
        [..., 4] in (0, 1), in the dtype of `boxes`. Gradients flow to both arguments.
    """
    return (offsets.to(boxes.dtype) + inverse_sigmoid(boxes)).sigmoid()


@dataclass(frozen=True)
class BoxPairs:
    """Boxes that are compared element by element. What several measures need is computed once, when it is first read.

    first, second: normalised, as four tensors cx, cy, w, h; they broadcast with each other to [...].
    """

    first: Sides
    second: Sides

    @cached_property
    def corners(self) -> tuple[Sides, Sides]:
        """Both as four tensors x1, y1, x2, y2."""
        return _corners(self.first), _corners(self.second)

    @cached_property
    def intersection_and_union(self) -> tuple[Tensor, Tensor]:
        """Areas, each [...]."""
        return _intersection_and_union(*self.corners)

    def iou(self) -> Tensor:
        """Plain IoU, [...]; 0 for boxes without area."""
        intersection, union = self.intersection_and_union
        return intersection / union.clamp(min=torch.finfo(union.dtype).tiny)


class BoxDistance:
    """L1 distance and GIoU of boxes. Both the matching costs and the box losses use it.

    Args:
        corners: whether L1 compares (x1, y1, x2, y2), as in Sparse R-CNN and AdaMixer, or (cx, cy, w, h), as in DETR.
        eps: added to the denominators of GIoU. detrex's 1e-6 changes the GIoU of tiny boxes visibly, because the
            areas are in normalised units.
    """

    def __init__(self, *, corners: bool = False, eps: float = 1e-6) -> None:
        self.corners, self.eps = corners, eps

    def __call__(self, boxes: Tensor, objects: Tensor) -> tuple[Tensor, Tensor]:
        """Compare boxes with objects.

        Args:
            boxes: normalised cxcywh, [..., 4].
            objects: normalised cxcywh, [..., 4], broadcast with the boxes.

        Returns:
            The sum of the four absolute differences, and the GIoU, each [...].
        """
        return self.of_pairs(BoxPairs(boxes.unbind(-1), objects.unbind(-1)))

    def sums(self, boxes: Tensor, objects: Tensor, matched: Tensor) -> tuple[Tensor, Tensor]:
        """The distance and 1 - GIoU of matched boxes, summed over all but the first axis: the box losses.

        Args:
            boxes: normalised cxcywh, [S, ..., 4].
            objects: the object of each box, [S, ..., 4]. Only the boxes get a gradient.
            matched: bool [S, ...]; the other boxes count nothing.

        Returns:
            Both sums, each [S].
        """
        return box_sums(boxes, objects, matched, corners=self.corners, eps=self.eps)

    def of_pairs(self, pairs: BoxPairs) -> tuple[Tensor, Tensor]:
        """The same of boxes that are given with what other measures share."""
        first, second = pairs.corners
        compared = (first, second) if self.corners else (pairs.first, pairs.second)
        distances = [(ours - theirs).abs_() for ours, theirs in zip(*compared, strict=True)]
        distance = distances[0] + distances[1] + distances[2] + distances[3]
        return distance, _generalized_box_iou(first, second, *pairs.intersection_and_union, eps=self.eps)


def _corners(cxcywh: Sides) -> Sides:
    x, y, width, height = cxcywh
    low = x.sub(width, alpha=0.5), y.sub(height, alpha=0.5)  # one operation each, and one in the backward pass
    return *low, x.add(width, alpha=0.5), y.add(height, alpha=0.5)
