"""The criterion: one loop over query groups, all stages at once."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from crossstage.layers.boxes import BoxDistance
from crossstage.modeling.stages import of_stage
from crossstage.modeling.supervision.labels import OwnStageLabels
from crossstage.modeling.supervision.losses import FocalClassLoss, box_losses
from crossstage.modeling.supervision.matching import HungarianMatcher
from crossstage.structures import GroupOutputs, PaddedTargets, QueryGroup


def mean_over_ranks(value: Tensor) -> Tensor:
    """Mean of a tensor over the processes of a distributed run; the tensor itself elsewhere."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    value = value.clone()
    torch.distributed.all_reduce(value)
    return value / torch.distributed.get_world_size()


class ObjectCount:
    """DETR's normaliser: the objects of a batch, at least 1, for class and box losses alike."""

    def __call__(
        self,
        targets: PaddedTargets,
        *,
        labels: Tensor,
        matches: Tensor,
        box_matches: Tensor,
        repeats: int | tuple[int, ...] = 1,
    ) -> tuple[Tensor, Tensor]:
        """Divisors of class and box losses, each [] or [S] (mean over ranks); an object counts `repeats` times."""
        if not isinstance(repeats, int):
            repeats = targets.boxes.new_tensor([of_stage(repeats, stage) for stage in range(len(matches))])
        count = mean_over_ranks(targets.valid.sum().to(targets.boxes.dtype) * repeats).clamp(min=1)
        return count, count


class LabelCount:
    """StageInteractor's normaliser: labels or matched queries, whichever are more; boxes by matched queries.

    At least 1, where the released code divides an empty batch by 0.
    """

    def __call__(
        self,
        targets: PaddedTargets,
        *,
        labels: Tensor,
        matches: Tensor,
        box_matches: Tensor,
        repeats: int | tuple[int, ...] = 1,
    ) -> tuple[Tensor, Tensor]:
        """labels: bool [S, B, N, K]; matches, box_matches: int64 [S, B, N]. Two divisors [S], means over ranks.

        Repeated objects need no factor: their matches are counted.
        """
        matched, regressed = ((found >= 0).flatten(1).sum(-1) for found in (matches, box_matches))
        counts = torch.stack([torch.maximum(labels.flatten(1).sum(-1), matched), regressed])
        return mean_over_ranks(counts.to(targets.boxes.dtype)).clamp(min=1).unbind(0)


def group_targets(group: QueryGroup, targets: PaddedTargets) -> PaddedTargets:
    """The objects as a group sees them: without their classes where it is class-agnostic."""
    return replace(targets, labels=torch.zeros_like(targets.labels)) if group.class_agnostic else targets


class SetCriterion(nn.Module):
    """Losses of every stage of every query group, weighted and named as in detrex.

    weights: of "loss_class", "loss_bbox" and "loss_giou"; a full name such as "loss_class_dn" overrides its kind for
    all stages of that group.  labels: the labels rule of the groups in `label_groups`; others keep their own match.
    box_matches: regroups the box targets of these groups (csla.CrossStageBoxMatches), or None.
    box_distance: how boxes are compared (give the matcher the same).
    normalizer: ObjectCount (DETR) or LabelCount (StageInteractor); one of your own takes the same keywords.
    """

    def __init__(
        self,
        *,
        matcher: HungarianMatcher,
        weights: Mapping[str, float],
        class_loss=None,
        labels=None,
        label_groups: Sequence[str] = ("matching",),
        box_matches=None,
        box_distance: BoxDistance | None = None,
        normalizer=None,
    ) -> None:
        super().__init__()
        self.matcher, self.weights = matcher, dict(weights)
        self.class_loss = FocalClassLoss() if class_loss is None else class_loss
        self.labels = OwnStageLabels() if labels is None else labels
        self.own_labels = OwnStageLabels()
        self.label_groups = tuple(label_groups)
        self.box_matches = box_matches
        self.box_distance = BoxDistance() if box_distance is None else box_distance
        self.normalizer = ObjectCount() if normalizer is None else normalizer

    def forward(self, groups: Sequence[GroupOutputs], targets: PaddedTargets) -> dict[str, Tensor]:
        """Weighted losses by name, 0-d each; their sum is what is minimised. Geometry runs outside autocast."""
        matches = self.match(groups, targets)
        losses: dict[str, Tensor] = {}
        with torch.autocast(targets.boxes.device.type, enabled=False):
            for predicted, matched in zip(groups, matches, strict=True):
                losses |= self.group_losses(predicted, targets, matched)
        return losses

    def match(self, groups: Sequence[GroupOutputs], targets: PaddedTargets) -> list[Tensor]:
        """Each group's matches, int64 [S, B, N]: the known ones, or those of one run of the matcher over the rest."""
        unmatched = [predicted for predicted in groups if predicted.group.matches is None]
        found = iter(
            self.matcher(
                [predicted.outputs for predicted in unmatched],
                [group_targets(predicted.group, targets) for predicted in unmatched],
                repeats=[predicted.group.repeats for predicted in unmatched],
            )
        )
        return [
            next(found)
            if predicted.group.matches is None
            else predicted.group.matches.expand(predicted.outputs.num_stages, -1, -1)
            for predicted in groups
        ]

    def group_losses(self, predicted: GroupOutputs, targets: PaddedTargets, matches: Tensor) -> dict[str, Tensor]:
        """The losses of one group, all stages. matches: int64 [S, B, N]."""
        group, outputs = predicted.group, predicted.outputs
        targets = group_targets(group, targets)
        ruled = group.name in self.label_groups
        labels = (self.labels if ruled else self.own_labels)(outputs, targets, matches)
        regroup = ruled and self.box_matches is not None
        box_matches = self.box_matches(outputs, targets, matches) if regroup else matches
        class_count, box_count = self.normalizer(
            targets, labels=labels, matches=matches, box_matches=box_matches, repeats=group.repeats
        )
        distance, overlap = box_losses(outputs.boxes, targets, box_matches, box_distance=self.box_distance)
        by_kind = {
            "loss_class": self.class_loss(outputs.logits, labels, normalizer=class_count * group.copies),
            "loss_bbox": distance / (box_count * group.copies),
            "loss_giou": overlap / (box_count * group.copies),
        }
        named = {}
        for kind, by_stage in by_kind.items():
            weight = self.weights.get(group.loss_name.format(loss=kind, stage=""), self.weights[kind])
            for stage, loss in enumerate((weight * by_stage).unbind()):
                suffix = "" if stage == outputs.num_stages - 1 else f"_{stage}"
                named[group.loss_name.format(loss=kind, stage=suffix)] = loss
        return named
