"""How the queries of a detector are used, counted while it is evaluated: `train.query_metrics.enabled=True`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from crossstage.errors import InputError
from crossstage.evaluation.query_use import THRESHOLDS, activations, gini, top_share
from crossstage.modeling.detector import Detector, group_named
from crossstage.modeling.supervision.criterion import SetCriterion
from crossstage.structures import Assignment, Detections, GroupOutputs, ImageBatch, PaddedTargets, StageOutputs

LOGGED_THRESHOLDS = (0.3, 0.5)


@dataclass
class QueryCounts:
    """Counts over images.

    Attributes:
        active: images in which each query is active at the last stage, by threshold, int64 [R, N]; 0 before any image.
        matched: images in which each query has an object at the last stage, int64 [N]; 0 before any image.
        positives: class targets above 0 of each stage.
        objects, images: how many were seen.
    """

    active: Tensor | int = 0
    matched: Tensor | int = 0
    positives: list[int] = field(default_factory=list)
    objects: int = 0
    images: int = 0

    def add(self, outputs: StageOutputs, targets: PaddedTargets, assignment: Assignment) -> None:
        """Count the images of a batch: predictions [S, B, N, ...], and what they would be taught."""
        assert assignment.labels is not None  # the rules have set them
        self.active = self.active + activations(outputs.logits[-1], torch.tensor(THRESHOLDS)).cpu()
        self.matched = self.matched + (assignment.matches[-1] >= 0).sum(0).cpu()
        self.positives = summed(self.positives, (assignment.labels > 0).flatten(1).sum(1).tolist())
        self.objects += targets.num_objects
        self.images += outputs.logits.shape[1]

    def joined(self, others: Iterable[QueryCounts]) -> QueryCounts:
        """These counts and those of other images."""
        total = self
        for other in others:
            total = QueryCounts(
                active=total.active + other.active,
                matched=total.matched + other.matched,
                positives=summed(total.positives, other.positives),
                objects=total.objects + other.objects,
                images=total.images + other.images,
            )
        return total

    def scores(self) -> dict[str, float]:
        """The numbers for the log, by name; NaN where nothing was counted. docs/inspection.md explains them."""
        active, matched = (torch.as_tensor(value) for value in (self.active, self.matched))
        chosen = {threshold: active[..., THRESHOLDS.index(threshold), :] for threshold in LOGGED_THRESHOLDS}
        return {
            **{f"gini_{threshold}": gini(counts) for threshold, counts in chosen.items()},
            **{f"top_fifth_{threshold}": top_share(counts) for threshold, counts in chosen.items()},
            "match_gini": gini(matched),
            **{
                f"positives_{stage}": count / max(self.objects, 1)
                for stage, count in enumerate(self.positives, start=1)
            },
        }


class CountingDetector(nn.Module):
    """A detector in evaluation mode that gives the same detections and counts how its queries are used.

    Args:
        detector: the detector; its criterion decides which queries have which objects.

    Raises:
        InputError: for a model of another kind.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        if not isinstance(detector, Detector) or not isinstance(detector.criterion, SetCriterion):
            raise InputError(
                f"train.query_metrics.enabled=True: model is a {type(detector).__name__}; expected a Detector with a "
                "SetCriterion, or train.query_metrics.enabled=False"
            )
        self.detector = detector
        self.counts = QueryCounts()

    def forward(self, batch: ImageBatch) -> list[Detections]:
        """Detect as the detector does. Batches without annotations are not counted."""
        predicted = group_named("matching", self.detector.predict(batch)[1])
        if batch.targets is not None:
            targets, assignment = taught(self.detector.criterion, predicted, PaddedTargets.of(batch.targets))
            self.counts.add(predicted.outputs, targets, assignment)
        return self.detector.postprocess(predicted.outputs, batch)


def taught(criterion: object, predicted: GroupOutputs, targets: PaddedTargets) -> tuple[PaddedTargets, Assignment]:
    """What a group of queries would be taught, by the criterion's own matcher and label rules.

    Args:
        criterion: of the detector.
        predicted: the group and its predictions, S stages.
        targets: the objects, on the device of the predictions.

    Returns:
        The objects as the group sees them, and the assignment with matches [S, B, N] and labels [S, B, N, K].

    Raises:
        InputError: for a criterion of another kind.
    """
    if not isinstance(criterion, SetCriterion):
        raise InputError(f"model.criterion is a {type(criterion).__name__}; expected a SetCriterion")
    (matches,) = criterion.match([predicted], targets)
    supervision = criterion.supervision(predicted.group.name)
    objects = supervision.objects(targets)
    return objects, supervision.assign(predicted, objects, matches)


def summed(total: list[int], more: list[int]) -> list[int]:
    """The sums of counts by stage; an empty list counts as zeros."""
    return [one + other for one, other in zip(total, more, strict=True)] if total and more else total or more
