"""The equation of cross-stage label assignment (StageInteractor, ICCV 2023, section 3.3) as functions of tensors.

A query has the same index at all stages of a decoder. Stage i also takes the class labels of the objects that the same
query was matched with at the stages j of a window around i, if the box that stage i predicts overlaps the object:

    y_i[q, c] = 1  iff  some j in [i - look_back, i + look_ahead] has match_j(q) = t, label(t) = c, and
                        IoU(box_i(q), box(t)) >= iou_threshold

The stage's own match is in the window too, and the threshold also applies to it: an own match that overlaps too little
becomes a negative of the classification. Box losses keep the stage's own match. Letters: S stages, B images, N queries,
T objects, K classes.
"""

from typing import Any

import torch
from torch import Tensor

from crossstage.layers.multi_hot import largest_per_class, matched_labels, multi_hot
from crossstage.layers.stage_overlap import stage_overlap

ANY_OVERLAP = 1e-30
"""An iou_threshold that accepts every overlap above zero (Table 7, "cross without score")."""


def stage_window(stages: int, *, look_back: int | None, look_ahead: int | None, device: torch.device) -> Tensor:
    """The window of stages j from which stage i takes labels: bool [S (i), S (j)]. None means all in this direction."""
    window = torch.ones(stages, stages, dtype=torch.bool, device=device)
    if look_back is not None:
        window = window.triu(-look_back)
    if look_ahead is not None:
        window = window.tril(look_ahead)
    return window


def label_stages(matches: Tensor, boxes: Tensor, objects: Tensor, **options: Any) -> Tensor:
    """Decide from which stages each stage takes class labels, for each query.

    Args:
        matches: int64 [S, B, N], the object's index or -1.
        boxes: predicted boxes, [S, B, N, 4], normalised cxcywh.
        objects: [B, T, 4], normalised cxcywh.
        **options: options of `kept_stages`.

    Returns:
        bool [S (i), S (j), B, N].
    """
    return kept_stages(stage_overlap(boxes.detach(), matches, objects), matches, **options)


def kept_stages(
    overlap: Tensor,
    matches: Tensor,
    *,
    iou_threshold: float = 0.5,
    look_back: int | None = 1,
    look_ahead: int | None = None,
    filter_own: bool = True,
    plain_last_stages: int = 0,
) -> Tensor:
    """Decide from which stages each stage takes class labels, given how well its boxes fit the objects.

    Args:
        overlap: [S (i), S (j), B, N], see `stage_overlap`.
        matches: int64 [S, B, N], the object's index or -1.
        iou_threshold: smallest IoU of stage i's box with the object.
        look_back: number of earlier stages in the window; None means all (Table 13).
        look_ahead: number of later stages in the window; None means all (Table 13).
        filter_own: whether the threshold also applies to the stage's own match, as in the paper.
        plain_last_stages: number of last stages that keep only their own match, without a threshold (Table 13).

    Returns:
        bool [S (i), S (j), B, N].
    """
    stages = len(matches)
    window = stage_window(stages, look_back=look_back, look_ahead=look_ahead, device=matches.device)
    keep = (overlap >= iou_threshold).logical_and_(window[:, :, None, None])
    if not filter_own or plain_last_stages:
        own = torch.eye(stages, dtype=torch.bool, device=matches.device)[:, :, None, None]
        plain = torch.arange(stages, device=matches.device) >= stages - plain_last_stages
        keep = torch.where(plain[:, None, None, None], own, keep if filter_own else keep | own)
    keep &= (matches >= 0)[None]
    return keep


def labels_from_stages(keep: Tensor, matches: Tensor, labels: Tensor, *, num_classes: int) -> Tensor:
    """The classes of the objects that the kept stages matched.

    Args:
        keep: bool [S (i), S (j), B, N], see `label_stages`.
        matches: int64 [S, B, N], the object's index or -1.
        labels: int64 [B, T].
        num_classes: number of classes K.

    Returns:
        bool [S, B, N, K].
    """
    return multi_hot(matched_labels(matches, labels), keep, num_classes=num_classes)


def cross_stage_labels(
    matches: Tensor, boxes: Tensor, labels: Tensor, objects: Tensor, *, num_classes: int, **options: Any
) -> Tensor:
    """Multi-hot class targets of all stages.

    Args:
        matches: int64 [S, B, N], the index of each query's object in its image, or -1.
        boxes: the boxes that each stage predicts, [S, B, N, 4], normalised cxcywh.
        labels: int64 [B, T], padded to T.
        objects: [B, T, 4], normalised cxcywh, padded to T.
        num_classes: number of classes K.
        **options: options of `kept_stages`: iou_threshold (0.5), look_back and look_ahead (1 and None, the paper's
            window [i - 1, L]), filter_own (True, as in the paper), plain_last_stages (0).

    Returns:
        bool [S, B, N, K].
    """
    keep = label_stages(matches, boxes, objects, **options)
    return labels_from_stages(keep, matches, labels, num_classes=num_classes)


def cross_stage_scores(
    matches: Tensor, boxes: Tensor, labels: Tensor, objects: Tensor, *, num_classes: int, **options: Any
) -> Tensor:
    """Soft class targets of all stages: the IoU where `cross_stage_labels` has a label.

    Varifocal, matchability-aware and IoU-aware losses use the IoU of a query's box with its object as the target. If
    several of the kept stages matched the query with objects of one class, the largest of their IoUs counts.

    Args:
        matches: int64 [S, B, N], the index of each query's object in its image, or -1.
        boxes: the boxes that each stage predicts, [S, B, N, 4], normalised cxcywh.
        labels: int64 [B, T], padded to T.
        objects: [B, T, 4], normalised cxcywh, padded to T.
        num_classes: number of classes K.
        **options: options of `kept_stages`, as for `cross_stage_labels`.

    Returns:
        [S, B, N, K] in the dtype of the boxes, without gradient: an IoU, or -1 without a label.
        `cross_stage_scores(...) >= 0` equals `cross_stage_labels(...)`.
    """
    overlap = stage_overlap(boxes.detach(), matches, objects)
    keep = kept_stages(overlap, matches, **options)
    return largest_per_class(overlap, matched_labels(matches, labels), keep, num_classes=num_classes)


def cross_stage_box_matches(
    matches: Tensor,
    boxes: Tensor,
    objects: Tensor,
    *,
    iou_threshold: float = 0.5,
    look_back: int | None = 1,
    look_ahead: int | None = None,
) -> Tensor:
    """Gather box targets from later stages too (Table 12, "localisation"). The released configs do not use this.

    A query without its own match takes an object that it matched at a later stage of the window: the one with which
    its box has the largest IoU (the first such stage). This IoU must be at least `iou_threshold`, and larger than the
    IoU with the objects that the query matched at earlier stages of the window.

    Args:
        matches: int64 [S, B, N], the object's index or -1.
        boxes: predicted boxes, [S, B, N, 4], normalised cxcywh.
        objects: [B, T, 4], normalised cxcywh.
        iou_threshold: smallest IoU of the box with the object.
        look_back: number of earlier stages in the window; None means all.
        look_ahead: number of later stages in the window; None means all.

    Returns:
        int64 [S, B, N], the object's index or -1.
    """
    stages = len(matches)
    overlap = stage_overlap(boxes.detach(), matches, objects)
    window = stage_window(stages, look_back=look_back, look_ahead=look_ahead, device=matches.device)
    step = torch.arange(stages, device=matches.device)
    later = (step[None] > step[:, None])[:, :, None, None]
    overlap = overlap.masked_fill(~(window[:, :, None, None] & (matches >= 0)), 0)
    best, stage = overlap.masked_fill(~later, 0).max(dim=1)
    before = overlap.masked_fill(later, 0).amax(dim=1)
    gathered = matches[:, None].expand(-1, stages, -1, -1).transpose(0, 1).gather(1, stage[:, None])[:, 0]
    take = (matches < 0) & (best > before) & (best >= iou_threshold)
    return torch.where(take, gathered, matches)
