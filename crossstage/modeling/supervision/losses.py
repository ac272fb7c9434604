"""Losses as pure functions of tensors, summed over images and queries but not over stages: [S, B, N, ...] -> [S]."""

import torch
from torch import Tensor
from torch.nn import functional as F

from crossstage.layers.boxes import BoxDistance
from crossstage.layers.focal import sigmoid_focal_loss, soft_focal_loss, varifocal_loss
from crossstage.structures import PaddedTargets


class FocalClassLoss:
    """Sigmoid focal loss over every query and class, divided by the normaliser.

    Bool labels take a fast path. Labels that are numbers are soft targets, see `soft_focal_loss`.
    """

    def __init__(self, *, alpha: float = 0.25, gamma: float = 2.0) -> None:
        self.alpha, self.gamma = alpha, gamma

    def __call__(self, logits: Tensor, labels: Tensor, *, normalizer: Tensor) -> Tensor:
        """logits, labels: [S, B, N, K], bool or in [0, 1]; normalizer: [S] or [] -> [S]."""
        focal = sigmoid_focal_loss if labels.dtype == torch.bool else soft_focal_loss
        return focal(logits, labels, alpha=self.alpha, gamma=self.gamma) / normalizer


class VarifocalClassLoss:
    """Varifocal loss (VarifocalNet, PaQ-DETR): positives weigh as much as their target, see `varifocal_loss`.

    Meant for targets from `OverlapTargets`; a bool label is the target 1.
    """

    def __init__(self, *, alpha: float = 0.25, gamma: float = 2.0) -> None:
        self.alpha, self.gamma = alpha, gamma

    def __call__(self, logits: Tensor, labels: Tensor, *, normalizer: Tensor) -> Tensor:
        """logits, labels: [S, B, N, K], bool or in [0, 1]; normalizer: [S] or [] -> [S]."""
        return varifocal_loss(logits, labels, alpha=self.alpha, gamma=self.gamma) / normalizer


class QualityFocalClassLoss:
    """Quality focal loss (Generalized Focal Loss, NeurIPS 2020, eq. 3): |t - p|^beta * BCE(x, t), p = sigmoid(x)."""

    def __init__(self, *, beta: float = 2.0) -> None:
        self.beta = beta

    def __call__(self, logits: Tensor, labels: Tensor, *, normalizer: Tensor) -> Tensor:
        """logits, labels: [S, B, N, K], bool or in [0, 1]; normalizer: [S] or [] -> [S]."""
        labels = labels.to(logits.dtype)
        costs = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        weights = (labels - logits.sigmoid()).abs() ** self.beta
        return (weights * costs).flatten(1).sum(-1) / normalizer


class SoftmaxClassLoss:
    """Cross-entropy with a last class "no object" of weight `background_weight` (DETR, section 3.1).

    A weighted mean over queries: the normaliser plays no part. Labels must be bool and one-hot; the last column is
    unused.
    """

    def __init__(self, *, background_weight: float = 0.1) -> None:
        self.background_weight = background_weight

    def __call__(self, logits: Tensor, labels: Tensor, *, normalizer: Tensor) -> Tensor:
        """logits: [S, B, N, K + 1], labels: bool [S, B, N, K + 1] -> [S]. Raises ValueError for soft labels."""
        if labels.dtype != torch.bool:
            raise ValueError("SoftmaxClassLoss takes bool labels; soft ones need FocalClassLoss or VarifocalClassLoss")
        background = logits.shape[-1] - 1
        classes = torch.where(labels.any(-1), labels.to(torch.uint8).argmax(-1), background)
        weights = torch.where(classes == background, logits.new_full((), self.background_weight), 1.0)
        negative_log = F.cross_entropy(logits.flatten(0, 2), classes.flatten(), reduction="none").view_as(weights)
        return (negative_log * weights).sum(dim=(1, 2)) / weights.sum(dim=(1, 2))


class BoxLoss:
    """L1 and 1 - GIoU of matched queries (DETR, section 3.1), divided by the normaliser."""

    kinds = ("bbox", "giou")

    def __init__(self, *, distance: BoxDistance | None = None) -> None:
        self.distance = BoxDistance() if distance is None else distance

    def __call__(
        self, boxes: Tensor, targets: PaddedTargets, matches: Tensor, *, normalizer: Tensor
    ) -> dict[str, Tensor]:
        """boxes: [S, B, N, 4].  matches: int64 [S, B, N], the object's index or -1.  normalizer: [S] or [].

        Returns [S] for each kind. Unmatched queries get no gradient.
        """
        distance, overlap = box_losses(boxes, targets, matches, box_distance=self.distance)
        return {"bbox": distance / normalizer, "giou": overlap / normalizer}


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
    return box_distance.sums(boxes, objects, matched)
