"""The equation of cross-stage label assignment (StageInteractor, ICCV 2023, section 3.3), on tensors alone.

A query keeps its index through the stages of a decoder. Stage i also takes the class labels that the same query was
matched with at the stages j of a window around i, if the box that stage i predicts overlaps that object enough:

    y_i[q, c] = 1  iff  some j in [i - look_back, i + look_ahead] has match_j(q) = t, label(t) = c, and
                        IoU(box_i(q), box(t)) >= iou_threshold

The stage's own match is in the window and held to the same threshold: an own match that overlaps too little becomes
a classification negative. Box losses keep the stage's own match. Letters as everywhere: S stages, B images,
N queries, T objects, K classes.
"""

from typing import Any

import torch
from torch import Tensor

from crossstage.layers.multi_hot import multi_hot
from crossstage.layers.stage_overlap import stage_overlap

ANY_OVERLAP = 1e-30
"""An iou_threshold that accepts whatever overlaps at all (Table 7, "cross without score")."""


def stage_window(stages: int, *, look_back: int | None, look_ahead: int | None, device: torch.device) -> Tensor:
    """Which stages j stage i listens to: bool [S (i), S (j)]; None = all in that direction."""
    window = torch.ones(stages, stages, dtype=torch.bool, device=device)
    if look_back is not None:
        window = window.triu(-look_back)
    if look_ahead is not None:
        window = window.tril(look_ahead)
    return window


def label_stages(
    matches: Tensor,
    boxes: Tensor,
    objects: Tensor,
    *,
    iou_threshold: float = 0.5,
    look_back: int | None = 1,
    look_ahead: int | None = None,
    filter_own: bool = True,
    plain_last_stages: int = 0,
) -> Tensor:
    """Which stages each stage takes class labels from: bool [S (i), S (j), B, N]; options of `cross_stage_labels`."""
    stages = len(matches)
    overlap = stage_overlap(boxes.detach(), matches, objects)
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

    keep: bool [S (i), S (j), B, N].  matches: int64 [S, B, N].  labels: int64 [B, T].  Returns bool [S, B, N, K].
    """
    classes = matches.clamp(min=0)
    classes = labels.expand(len(matches), -1, -1).gather(-1, classes) if labels.shape[1] else classes
    return multi_hot(classes, keep, num_classes=num_classes)


def cross_stage_labels(
    matches: Tensor, boxes: Tensor, labels: Tensor, objects: Tensor, *, num_classes: int, **options: Any
) -> Tensor:
    """Multi-hot class targets of all stages.

    Args:
        matches: int64 [S, B, N], each query's object in its image or -1.
        boxes: [S, B, N, 4] as predicted by each stage, normalised cxcywh.
        labels: int64 [B, T], padded to T.
        objects: [B, T, 4], normalised cxcywh, padded to T.
        num_classes: K.
        **options: of `label_stages`:
            iou_threshold: least overlap of stage i's box with the object (0.5).
            look_back, look_ahead: the window of stages, None = all (Table 13; the paper's is [i - 1, L], the default).
            filter_own: hold the stage's own match to the threshold too (the paper does, the default).
            plain_last_stages: so many last stages keep their own match, unfiltered (Table 13, "only stages 1..L-2").

    Returns:
        bool [S, B, N, K].
    """
    keep = label_stages(matches, boxes, objects, **options)
    return labels_from_stages(keep, matches, labels, num_classes=num_classes)


def cross_stage_box_matches(
    matches: Tensor,
    boxes: Tensor,
    objects: Tensor,
    *,
    iou_threshold: float = 0.5,
    look_back: int | None = 1,
    look_ahead: int | None = None,
) -> Tensor:
    """Box targets gathered from later stages too (Table 12, "localisation"): int64 [S, B, N], -1 = none.

    A query without a match of its own takes the object of the later stage in the window whose object it overlaps most
    (the first such stage), if that is more than the overlap with its object of the stages before, and at least
    iou_threshold. Off by default in the paper's configs.
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
