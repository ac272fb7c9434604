"""The supervision of one query group: whom its queries are matched with, which labels they get, and the losses."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from crossstage.config.names import suggestion
from crossstage.modeling.seams import BoxLossFunction, ClassLoss, LabelRule, Matcher, Normalizer
from crossstage.structures import Assignment, GroupOutputs, PaddedTargets, StageOutputs


class Supervision(nn.Module):
    """The parts that turn a group's predictions into losses; each is a config node of its own.

    Args:
        matcher: assigns objects to queries; unused where a group knows its matches.
        labels: the rule that makes class targets from matches, e.g. OwnStageLabels or csla.CrossStageLabels.
        adjustments: rules that change the assignment after `labels`, in this order, e.g. OverlapTargets.
        class_loss: called as (logits, labels, normalizer=...) -> [S]; its weight is "class".
        box_loss: called as (boxes, targets, matches, normalizer=...) -> [S] by kind; `box_loss.kinds` name the weights.
        normalizer: gives the divisors of class and box losses.
        weights: of each kind of loss: "class" and the kinds of `box_loss`.
        names: how a loss is called in the log, from its kind and stage, e.g. "{loss}_dn{stage}"; `stage` is "" for the
            last stage and "_0", "_1", ... before it, or the names that the decoder gives its stages.
        class_agnostic: every object counts as class 0, in matching and class loss (proposals of Deformable-DETR).

    Raises:
        ValueError: for unknown or missing weights, or `names` without "{loss}".
    """

    def __init__(
        self,
        *,
        matcher: Matcher,
        labels: LabelRule,
        class_loss: ClassLoss,
        box_loss: BoxLossFunction,
        normalizer: Normalizer,
        weights: Mapping[str, float],
        adjustments: Sequence[LabelRule] = (),
        names: str = "{loss}{stage}",
        class_agnostic: bool = False,
    ) -> None:
        super().__init__()
        self.matcher, self.labels, self.adjustments = matcher, labels, list(adjustments)
        self.class_loss, self.box_loss, self.normalizer = class_loss, box_loss, normalizer
        self.weights = {str(kind): float(weight) for kind, weight in weights.items()}
        self.names, self.class_agnostic = names, class_agnostic
        _check_weights(self.weights, ("class", *box_loss.kinds))
        if "{loss}" not in names:
            raise ValueError(f"names={names!r}: expected a pattern with {{loss}}, such as '{{loss}}_dn{{stage}}'")

    def objects(self, targets: PaddedTargets) -> PaddedTargets:
        """The objects as this group sees them: all of class 0 where it is class-agnostic."""
        return replace(targets, labels=torch.zeros_like(targets.labels)) if self.class_agnostic else targets

    def assign(self, predicted: GroupOutputs, targets: PaddedTargets, matches: Tensor) -> Assignment:
        """Apply the label rules. matches: int64 [S, B, N]."""
        assignment = Assignment(predicted.group, matches, box_matches=matches)
        for rule in (self.labels, *self.adjustments):
            assignment = rule(predicted.outputs, targets, assignment)
            _check_labels(rule, assignment, predicted.outputs)
        if assignment.labels is None:
            raise ValueError(f"{type(self.labels).__name__} set no labels; the first label rule has to")
        return assignment

    def losses(self, predicted: GroupOutputs, targets: PaddedTargets, matches: Tensor) -> dict[str, Tensor]:
        """The weighted losses of all stages, 0-d, by their names in the log. matches: int64 [S, B, N]."""
        outputs, targets = predicted.outputs, self.objects(targets)
        assignment = self.assign(predicted, targets, matches)
        assert assignment.labels is not None  # `assign` has checked it
        class_count, box_count = self.normalizer(targets, assignment)
        by_kind = {
            "class": self.class_loss(outputs.logits, assignment.labels, normalizer=class_count),
            **self.box_loss(outputs.boxes, targets, assignment.box_matches, normalizer=box_count),
        }
        return {
            self.loss_name(kind, outputs.suffix(stage)): loss
            for kind, by_stage in by_kind.items()
            for stage, loss in enumerate((self.weights[kind] * by_stage).unbind())
        }

    def loss_name(self, kind: str, suffix: str = "") -> str:
        """How the log calls a loss, e.g. "loss_class_dn_0". suffix: of the stage, `StageOutputs.suffix`."""
        return self.names.format(loss=f"loss_{kind}", stage=suffix)


def _check_labels(rule: LabelRule, assignment: Assignment, outputs: StageOutputs) -> None:
    """Raise ValueError for labels of another shape than the logits, which could broadcast without a word."""
    labels, expected = assignment.labels, outputs.logits.shape
    if labels is not None and labels.shape != expected:
        found = f"{type(rule).__name__} returned labels of shape {tuple(labels.shape)}"
        raise ValueError(f"{found}; expected that of the logits, [S, B, N, K] = {tuple(expected)}")


def _check_weights(weights: Mapping[str, float], kinds: Sequence[str]) -> None:
    for unknown in (kind for kind in weights if kind not in kinds):
        hint = suggestion(unknown.removeprefix("loss_"), kinds)
        raise ValueError(f"weights.{unknown}: there is no such loss. The losses are: {', '.join(kinds)}.{hint}")
    if missing := [kind for kind in kinds if kind not in weights]:
        raise ValueError(f"weights lack {', '.join(missing)}; 0 switches a loss off")
