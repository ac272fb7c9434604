"""Losses as pure functions of tensors, summed over images and queries but not over stages: [S, B, N, ...] -> [S]."""

import torch
from torch import Tensor
from torch.nn import functional as F

from crossstage.layers.boxes import BoxDistance
from crossstage.layers.focal import sigmoid_focal_loss
from crossstage.structures import PaddedTargets


class FocalClassLoss:
    """Sigmoid focal loss over every query and class, divided by the normaliser."""

    def __init__(self, *, alpha: float = 0.25, gamma: float = 2.0) -> None:
        self.alpha, self.gamma = alpha, gamma

    def __call__(self, logits: Tensor, labels: Tensor, *, normalizer: Tensor) -> Tensor:
        """logits: [S, B, N, K], labels: bool [S, B, N, K], normalizer: [S] or [] -> [S]."""
        return sigmoid_focal_loss(logits, labels, alpha=self.alpha, gamma=self.gamma) / normalizer


class SoftmaxClassLoss:
    """Cross-entropy with a last class "no object" of weight `background_weight` (DETR, section 3.1).

    A weighted mean over queries: the normaliser plays no part. Labels must be one-hot; the last column is unused.
    """

    def __init__(self, *, background_weight: float = 0.1) -> None:
        self.background_weight = background_weight

    def __call__(self, logits: Tensor, labels: Tensor, *, normalizer: Tensor) -> Tensor:
        """logits: [S, B, N, K + 1], labels: bool [S, B, N, K + 1] -> [S]."""
        background = logits.shape[-1] - 1
        classes = torch.where(labels.any(-1), labels.to(torch.uint8).argmax(-1), background)
        weights = torch.where(classes == background, logits.new_full((), self.background_weight), 1.0)
        negative_log = F.cross_entropy(logits.flatten(0, 2), classes.flatten(), reduction="none").view_as(weights)
        return (negative_log * weights).sum(dim=(1, 2)) / weights.sum(dim=(1, 2))


def box_losses(
    boxes: Tensor, targets: PaddedTargets, matches: Tensor, *, box_distance: BoxDistance
) -> tuple[Tensor, Tensor]:
    """L1 and 1 - GIoU of matched queries, each summed over images and queries: two [S].

    boxes: [S, B, N, 4].  matches: int64 [S, B, N], the object's index or -1. Unmatched queries get no gradient.
    """
    if targets.labels.shape[1] == 0:
        nothing = boxes.flatten(1)[:, :0].sum(-1)
        return nothing, nothing
    matched = matches >= 0
    index = matches.clamp(min=0)[..., None].expand(-1, -1, -1, 4)
    objects = targets.boxes.to(boxes.dtype).expand(len(boxes), -1, -1, -1).gather(2, index)
    distance, overlap = box_distance(torch.where(matched[..., None], boxes, objects), objects)
    return distance.flatten(1).sum(-1), ((1 - overlap) * matched).flatten(1).sum(-1)
