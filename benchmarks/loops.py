"""The baseline of criterion, csla, matching and focal: DETR's and StageInteractor's equations, written straight down.

Stages one by one; costs of all queries with the objects of the whole batch, copied to the host once a stage; the GIoU
of all pairs for the sake of its diagonal; focal loss by binary cross-entropy times (1 - p_t)^gamma. That is how the
usual code bases do it; nothing is slower than there on purpose.
"""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from crossstage.structures import Target

ALPHA, GAMMA = 0.25, 2.0
COSTS = {"class": 2.0, "bbox": 5.0, "giou": 2.0}
WEIGHTS = {"loss_class": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0}

Pairs = tuple[Tensor, Tensor]
"""Matched queries and their objects, int64 each, by query."""


def corners(boxes: Tensor) -> Tensor:
    """cxcywh to xyxy."""
    x, y, width, height = boxes.unbind(-1)
    return torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], dim=-1)


def iou_matrix(first: Tensor, second: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """[n, 4], [m, 4] xyxy -> IoU and union, [n, m] each."""
    areas = [(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) for boxes in (first, second)]
    sides = (torch.min(first[:, None, 2:], second[:, 2:]) - torch.max(first[:, None, :2], second[:, :2])).clamp(min=0)
    shared = sides[..., 0] * sides[..., 1]
    union = areas[0][:, None] + areas[1] - shared
    return shared / (union + eps), union


def giou_matrix(first: Tensor, second: Tensor) -> Tensor:
    """[n, 4], [m, 4] xyxy -> [n, m]."""
    iou, union = iou_matrix(first, second, 1e-6)
    sides = (torch.max(first[:, None, 2:], second[:, 2:]) - torch.min(first[:, None, :2], second[:, :2])).clamp(min=0)
    hull = sides[..., 0] * sides[..., 1]
    return iou - (hull - union) / (hull + 1e-6)


def match_stage(logits: Tensor, boxes: Tensor, targets: tuple[Target, ...]) -> list[Pairs]:
    """One decoder layer. logits: [B, N, K], boxes: [B, N, 4] -> pairs of each image."""
    with torch.no_grad():
        probability = logits.flatten(0, 1).sigmoid()
        predicted = boxes.flatten(0, 1)
        labels = torch.cat([target.labels for target in targets])
        objects = torch.cat([target.boxes for target in targets])
        negative = (1 - ALPHA) * probability**GAMMA * -(1 - probability + 1e-8).log()
        positive = ALPHA * (1 - probability) ** GAMMA * -(probability + 1e-8).log()
        cost = COSTS["bbox"] * torch.cdist(predicted, objects, p=1)
        cost = cost + COSTS["class"] * (positive[:, labels] - negative[:, labels])
        cost = cost - COSTS["giou"] * giou_matrix(corners(predicted), corners(objects))
        cost = cost.view(*logits.shape[:2], -1).cpu()
        parts = cost.split([len(target) for target in targets], dim=-1)
        solved = [linear_sum_assignment(part[image]) for image, part in enumerate(parts)]
    return [(torch.as_tensor(queries), torch.as_tensor(found)) for queries, found in solved]


def match(logits: Tensor, boxes: Tensor, targets: tuple[Target, ...]) -> list[list[Pairs]]:
    """All stages: [S, B, N, K], [S, B, N, 4] -> pairs by stage and image."""
    return [match_stage(*stage, targets) for stage in zip(logits, boxes, strict=True)]


def own_labels(matches: list[list[Pairs]], like: Tensor, targets: tuple[Target, ...]) -> list[Tensor]:
    """One-to-one class targets, float [B, N, K] a stage."""
    stages = []
    for pairs in matches:
        classes = torch.full(like.shape[1:3], like.shape[3], dtype=torch.int64)
        for image, (queries, found) in enumerate(pairs):
            classes[image, queries] = targets[image].labels[found]
        one_hot = torch.zeros(*classes.shape, like.shape[3] + 1).scatter_(-1, classes[..., None], 1)
        stages.append(one_hot[..., :-1])
    return stages


def cross_stage_labels(
    matches: list[list[Pairs]], boxes: Tensor, like: Tensor, targets: tuple[Target, ...]
) -> list[Tensor]:
    """CSLA with the paper's window [i - 1, L] and threshold 0.5: float [B, N, K] a stage."""
    stages = []
    for stage, of_stage in enumerate(boxes.detach()):
        positive = torch.zeros(like.shape[1:])
        for other in range(max(0, stage - 1), len(matches)):
            for image, (queries, found) in enumerate(matches[other]):
                first, second = corners(of_stage[image, queries]), corners(targets[image].boxes[found])
                enough = iou_matrix(first, second, 0.0)[0].diag() >= 0.5
                positive[image, queries[enough], targets[image].labels[found[enough]]] = 1
        stages.append(positive)
    return stages


def focal_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The usual sigmoid focal loss of float labels, summed."""
    probability = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    of_truth = probability * labels + (1 - probability) * (1 - labels)
    loss = entropy * (1 - of_truth) ** GAMMA
    return ((ALPHA * labels + (1 - ALPHA) * (1 - labels)) * loss).sum()


def stage_box_losses(boxes: Tensor, pairs: list[Pairs], targets: tuple[Target, ...]) -> tuple[Tensor, Tensor]:
    """L1 and 1 - GIoU of one stage, summed. boxes: [B, N, 4]."""
    image = torch.cat([torch.full_like(queries, index) for index, (queries, _) in enumerate(pairs)])
    matched = boxes[image, torch.cat([queries for queries, _ in pairs])]
    objects = torch.cat([target.boxes[found] for target, (_, found) in zip(targets, pairs, strict=True)])
    overlap = torch.diag(giou_matrix(corners(matched), corners(objects)))
    return F.l1_loss(matched, objects, reduction="none").sum(), (1 - overlap).sum()


def criterion(logits: Tensor, boxes: Tensor, targets: tuple[Target, ...], *, cross_stage: bool) -> dict[str, Tensor]:
    """Weighted losses by detrex's names; the last stage has no suffix."""
    matches = match(logits, boxes, targets)
    count = max(1, sum(len(target) for target in targets))
    labels = (
        cross_stage_labels(matches, boxes, logits, targets) if cross_stage else own_labels(matches, logits, targets)
    )
    losses = {}
    for stage, pairs in enumerate(matches):
        suffix = "" if stage == len(matches) - 1 else f"_{stage}"
        distance, overlap = stage_box_losses(boxes[stage], pairs, targets)
        by_name = {
            "loss_class": focal_loss(logits[stage], labels[stage]),
            "loss_bbox": distance,
            "loss_giou": overlap,
        }
        losses |= {name + suffix: WEIGHTS[name] * loss / count for name, loss in by_name.items()}
    return losses
