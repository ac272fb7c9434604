"""Cross-stage labels for detrex's own detectors, with one line in a detrex config.

A criterion of detrex matches one stage, computes its losses and continues with the next stage; each subclass has its
own `forward`. `CrossStageCriterion` wraps such a criterion and runs its `forward`, but replaces two of its methods:
the matcher, because the labels of a stage depend on the matches of other stages, and the class loss of the groups that
the rule applies to. Everything else (box losses, extra losses of a subclass, normalisers, names, weights) is computed
by the wrapped criterion. `csla.detrex_stages` converts between detrex's dicts and our tensors.

detrex and detectron2 are imported only when a model is built.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crossstage.config import LazyCall as L
from crossstage.config.names import dotted_name, locate, suggestion
from crossstage.layers.focal import sigmoid_focal_loss
from crossstage.structures import Assignment, PaddedTargets, QueryGroup, StageOutputs
from csla.config import box_matches_node
from csla.detrex_requirements import ClassLoss, check_criterion, require_detrex
from csla.detrex_stages import (
    GROUPS,
    DetrexCriterion,
    Indices,
    Outputs,
    StageGroup,
    as_indices,
    as_matches,
    as_targets,
    stage_groups,
    stage_key,
)
from csla.rule import CrossStageBoxMatches, CrossStageLabels
from csla.shadowed import shadowed

_BUILDER = "csla.detrex.cross_stage_criterion"


def with_csla(model: Any, *, groups: Sequence[str] = ("matching",), localisation: bool = False, **options: Any) -> Any:
    """Return a copy of a detrex model node whose criterion takes class labels across stages.

    The node of the criterion keeps its keys and gets `criterion_class`, `csla`, `csla_boxes` and `groups`. You may
    also add a `class_loss`, see `CrossStageCriterion`.

    Args:
        model: a LazyConfig node with a `criterion` whose class derives from detrex's SetCriterion.
        groups: names of query groups in `csla.detrex_stages.GROUPS`.
        localisation: whether box targets are gathered from later stages too (Table 12).
        **options: options of `csla.CrossStageLabels` (iou_threshold, look_back, look_ahead, filter_own,
            plain_last_stages).

    Returns:
        The changed copy.

    Raises:
        ValueError: for a model without a criterion, or an unknown group.
        TypeError: for an unknown option.
    """
    CrossStageLabels(**options)  # a wrong option must fail in the config file, not when the model is built
    if unknown := sorted(set(groups) - set(GROUPS)):
        raise ValueError(f"groups={unknown}: expected some of {', '.join(GROUPS)}.{suggestion(unknown[0], GROUPS)}")
    if not isinstance(model, Mapping) or "_target_" not in (model.get("criterion") or {}):
        raise ValueError("with_csla needs a detrex model node that has a `criterion`, such as projects/dino's")
    model = copy.deepcopy(model)
    node = model.criterion
    if node["_target_"] != _BUILDER:  # otherwise with_csla was called before, and this call replaces its options
        node.criterion_class = dotted_name(node["_target_"]) or node["_target_"]
        node["_target_"] = _BUILDER
    node.csla = L(CrossStageLabels)(**options)
    node.csla_boxes = box_matches_node(options) if localisation else None
    node.groups = list(groups)
    return model


def cross_stage_criterion(
    *,
    criterion_class: Any,
    csla: CrossStageLabels,
    csla_boxes: CrossStageBoxMatches | None = None,
    groups: Sequence[str] = ("matching",),
    class_loss: ClassLoss | None = None,
    **arguments: Any,
) -> "CrossStageCriterion":
    """Build `criterion_class(**arguments)` inside a `CrossStageCriterion`; the target of the node of `with_csla`.

    `criterion_class` is a class or its dotted name, and `**arguments` are its arguments. The other arguments are those
    of `CrossStageCriterion`: `csla` its `labels`, `csla_boxes` its `box_matches`.

    Raises:
        ImportError: if detrex is missing; says what to install.
    """
    require_detrex()
    build = locate(criterion_class) if isinstance(criterion_class, str) else criterion_class
    return CrossStageCriterion(
        build(**arguments), labels=csla, groups=groups, box_matches=csla_boxes, class_loss=class_loss
    )


class CrossStageCriterion(nn.Module):
    """A detrex criterion with cross-stage class labels. Arguments and results are those of the wrapped criterion.

    Args:
        criterion: a SetCriterion or a subclass, with the focal class loss.
        labels: the label rule.
        groups: names of the query groups that the rule applies to, see `csla.detrex_stages.GROUPS`. Other groups keep
            their own match and the wrapped class loss.
        box_matches: the rule for the box targets of these groups, or None.
        class_loss: called as (logits [S, B, N, K], labels bool [S, B, N, K], normalizer=) -> losses [S], such as
            `crossstage.modeling.supervision.losses.FocalClassLoss`. None means the focal loss with the wrapped
            criterion's alpha and gamma.

    Raises:
        TypeError: for another kind of criterion, or one whose class loss does not accept multi-hot labels.
    """

    def __init__(
        self,
        criterion: DetrexCriterion,
        *,
        labels: CrossStageLabels,
        groups: Sequence[str] = ("matching",),
        box_matches: CrossStageBoxMatches | None = None,
        class_loss: ClassLoss | None = None,
    ) -> None:
        super().__init__()
        check_criterion(criterion, class_loss)
        self.criterion = criterion
        self.labels, self.groups = labels, tuple(groups)
        self.box_matches, self.class_loss = box_matches, class_loss

    def forward(self, outputs: Outputs, targets: list[dict[str, Tensor]], *arguments: Any, **keywords: Any) -> Any:
        """Compute the losses of the wrapped criterion with cross-stage class labels. Each stage is matched once.

        Args:
            outputs: detrex's outputs: `pred_logits` [B, N, K], `pred_boxes` [B, N, 4], `aux_outputs`, ...
            targets: one dict per image with `labels` [T] and `boxes` [T, 4].
            *arguments: further arguments of the wrapped criterion.
            **keywords: further arguments of the wrapped criterion.

        Returns:
            The result of the wrapped criterion: its losses by its names.

        Raises:
            RuntimeError: if the wrapped criterion did not call the class loss for every stage.
        """
        found = stage_groups(outputs, *arguments, *keywords.values())
        ruled = [group for group in found if group.name in self.groups]
        step = _Step(self, ruled, targets)
        answers = {"matcher": step.matcher, "loss_labels": step.loss_labels}
        if self.box_matches is not None:
            answers["loss_boxes"] = step.loss_boxes
        with shadowed(self.criterion, **answers):
            losses = self.criterion(outputs, targets, *arguments, **keywords)
        step.check_that_all_was_asked_for()
        return losses

    def class_losses(
        self, outputs: StageOutputs, targets: PaddedTargets, matches: Tensor, *, num_boxes: float
    ) -> Tensor:
        """The class losses of a group, [S]; `matches` is int64 [S, B, N]."""
        labels = self.labels(outputs, targets, _assignment(matches)).labels
        assert labels is not None  # the rule has set them
        if self.class_loss is not None:
            return self.class_loss(outputs.logits, labels, normalizer=num_boxes)
        alpha, gamma = self.criterion.alpha, self.criterion.gamma
        return sigmoid_focal_loss(outputs.logits, labels, alpha=alpha, gamma=gamma) / num_boxes

    def __getattr__(self, name: str) -> Any:
        """Attributes that the adapter lacks (`weight_dict`, `num_classes`, ...) are those of the wrapped criterion."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "criterion":
                raise
            return getattr(self.criterion, name)


def _assignment(matches: Tensor) -> Assignment:
    """The argument of a label rule, from matches int64 [S, B, N]."""
    return Assignment(QueryGroup("matching", matches.shape[-1]), matches, box_matches=matches)


class _Step:
    """One call of the criterion: the matches of all stages, and the class losses of the groups with the rule."""

    def __init__(self, adapter: CrossStageCriterion, groups: list[StageGroup], targets: Any) -> None:
        self.adapter, self.targets = adapter, targets
        criterion = adapter.criterion
        self.own_matcher, self.box_matches = criterion.matcher, adapter.box_matches
        self.own_class_loss, self.own_box_loss = criterion.loss_labels, criterion.loss_boxes
        self.places = {key: (group, index) for group in groups for index, key in enumerate(group.stage_keys())}
        self.indices = {
            stage_key(stage): self.own_matcher(stage, targets)
            for group in groups
            if group.matched
            for stage in group.stages
        }
        self.tensors: dict[str, tuple[StageOutputs, PaddedTargets, Tensor]] = {}
        self.losses: dict[str, Tensor] = {}
        self.box_indices: dict[str, list[Indices]] = {}
        self.asked: set[int] = set()

    def matcher(self, outputs: Outputs, targets: Any) -> Indices:
        """The matches of a stage. They are computed already, unless the criterion matches other outputs or targets."""
        known = targets is self.targets and stage_key(outputs) in self.indices
        return self.indices[stage_key(outputs)] if known else self.own_matcher(outputs, targets)

    def loss_labels(
        self, outputs: Outputs, targets: Any, indices: Indices, num_boxes: float, **keywords: Any
    ) -> dict[str, Tensor]:
        """The class loss of a stage; the first call for a group computes all its stages."""
        key = stage_key(outputs)
        if key not in self.places:
            return self.own_class_loss(outputs, targets, indices, num_boxes, **keywords)
        self.asked.add(key)
        group, index = self.places[key]
        if group.name not in self.losses:
            with torch.autocast(outputs["pred_logits"].device.type, enabled=False):
                of_group = self._group_tensors(group, targets, indices)
                self.losses[group.name] = self.adapter.class_losses(*of_group, num_boxes=num_boxes)
        return {"loss_class": self.losses[group.name][index]}

    def loss_boxes(
        self, outputs: Outputs, targets: Any, indices: Indices, num_boxes: float, **keywords: Any
    ) -> dict[str, Tensor]:
        """The wrapped criterion's box losses of a stage, with box targets that are gathered over the stages."""
        if self.box_matches is not None and stage_key(outputs) in self.places:
            group, index = self.places[stage_key(outputs)]
            if group.name not in self.box_indices:
                outputs_of, objects, matches = self._group_tensors(group, targets, indices)
                regrouped = self.box_matches(outputs_of, objects, _assignment(matches))
                self.box_indices[group.name] = as_indices(regrouped.box_matches)
            indices = self.box_indices[group.name][index]
        return self.own_box_loss(outputs, targets, indices, num_boxes, **keywords)

    def _group_tensors(
        self, group: StageGroup, targets: Any, indices: Indices
    ) -> tuple[StageOutputs, PaddedTargets, Tensor]:
        """Outputs, targets and matches int64 [S, B, N] of all stages of a group."""
        if group.name not in self.tensors:
            # Denoising queries have the same known object at all stages; proposals have only one stage.
            found = [self.indices.get(key, indices) for key in group.stage_keys()]
            outputs = group.outputs()
            self.tensors[group.name] = outputs, as_targets(targets), as_matches(found, outputs.boxes)
        return self.tensors[group.name]

    def check_that_all_was_asked_for(self) -> None:
        """Raise RuntimeError for a criterion that computes its class loss in another way, without our labels."""
        criterion = self.adapter.criterion
        if "class" in criterion.losses and self.asked != set(self.places):
            raise RuntimeError(
                f"{type(criterion).__name__} called the class loss for {len(self.asked)} of {len(self.places)} "
                f"stages of {', '.join(self.adapter.groups)}; csla.detrex needs a criterion that calls self.loss_labels"
            )


if __name__ == "__main__":
    from csla.detrex_check import main

    main()
