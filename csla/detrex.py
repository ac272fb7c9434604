"""Cross-stage labels for detrex's own detectors, with one line in a detrex config.

A criterion of detrex matches one stage, computes its losses and continues with the next stage; each subclass has its
own `forward`. `CrossStageCriterion` wraps such a criterion and runs its `forward`, but computes the class losses of the
groups that the rule applies to afterwards, when the matches of all stages are known (`csla.detrex_step`). Everything
else (matches, box losses, extra losses of a subclass, normalisers, names, weights) is computed by the wrapped
criterion. `csla.detrex_stages` converts between detrex's dicts and our tensors.

detrex and detectron2 are imported only when a model is built.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf
from torch import Tensor, nn

from crossstage.config import LazyCall as L
from crossstage.config.names import dotted_name, locate
from crossstage.config.nodes import opaque
from crossstage.layers.focal import sigmoid_focal_loss
from crossstage.structures import PaddedTargets, StageOutputs
from csla.config import box_matches_node
from csla.detrex_requirements import (
    ClassLoss,
    check_criterion,
    check_criterion_class,
    check_groups,
    require_detrex,
)
from csla.detrex_stages import DetrexCriterion, Outputs, StageGroup, missing_groups, stage_groups
from csla.detrex_step import Step, assignment
from csla.rule import CrossStageBoxMatches, CrossStageLabels

_DECODER_LAYERS = ("transformer.decoder.num_layers", "transformer.num_decoder_layers")  # the second is Anchor-DETR's
_DECIDING_KEYS = {
    "denoising": ("dn_number", "denoising_groups"),
    "one_to_many": ("num_queries_one2many",),
    "proposals": ("as_two_stage", "transformer.as_two_stage", "transformer.two_stage_num_proposals"),
}
"""The keys of detrex's models that say whether there is a query group; the first that exists decides."""


def with_csla(
    model: Any,
    *,
    groups: Sequence[str] = ("matching",),
    localisation: bool = False,
    class_loss: Any = None,
    **options: Any,
) -> Any:
    """Return a copy of a detrex model node whose criterion takes class labels across stages.

    The node of the criterion keeps its keys and gets `criterion_class`, `csla`, `csla_boxes`, `class_loss`, `groups`,
    `available_groups` and `num_stages`.

    Args:
        model: a LazyConfig node with a `criterion` of the form of detrex's SetCriterion.
        groups: names of query groups in `csla.detrex_stages.GROUPS`.
        localisation: whether box targets are gathered from later stages too (Table 12).
        class_loss: the node of a class loss, see `CrossStageCriterion`, or None.
        **options: options of `csla.CrossStageLabels` (iou_threshold, look_back, look_ahead, filter_own,
            plain_last_stages).

    Returns:
        The changed copy.

    Raises:
        ValueError: for a model without a criterion, or an unknown group.
        TypeError: for an unknown option, or a criterion that cannot be adapted.
    """
    CrossStageLabels(**options)  # a wrong option must fail in the config file, not when the model is built
    check_groups(groups)
    _check_model(model)
    model = copy.deepcopy(model)
    node = model.criterion
    target = node["_target_"]
    if target is not cross_stage_criterion and target != dotted_name(cross_stage_criterion):
        # Otherwise with_csla was called before, and this call replaces its options.
        if class_loss is None and not isinstance(target, str):
            check_criterion_class(target, node)
        node.criterion_class = dotted_name(target) or target
        node["_target_"] = opaque(cross_stage_criterion)
    node.csla = L(CrossStageLabels)(**options)
    node.csla_boxes = box_matches_node(options) if localisation else None
    node.class_loss = class_loss
    node.groups = list(groups)
    node.available_groups = _available_groups(model)
    layers = next((key for key in _DECODER_LAYERS if OmegaConf.select(model, key) is not None), None)
    node.num_stages = None if layers is None else f"${{..{layers}}}"
    return model


def _check_model(model: Any) -> None:
    """Raise ValueError, with the remedy, for anything but a detrex model node with a criterion node."""
    if not isinstance(model, Mapping) or "criterion" not in model:
        if isinstance(model, Mapping) and "criterion" in (model.get("model") or {}):
            raise ValueError("with_csla got a whole config; give it the node of the model: with_csla(config.model)")
        raise ValueError("with_csla needs a detrex model node that has a `criterion`, such as projects/dino's")
    criterion = model["criterion"]
    if not isinstance(criterion, Mapping) or "_target_" not in criterion:
        raise ValueError(
            f"with_csla needs a `criterion` that is a node, L(...)(...); got an object of {type(criterion).__name__}"
        )
    if isinstance(criterion.get("groups"), Mapping):
        raise ValueError("this is a model of crossstage, not of detrex: use `from csla import with_csla`")


def _available_groups(model: Any) -> dict[str, Any]:
    """Whether the model has each query group: a bool, or an interpolation of the key of the model that decides."""
    found: dict[str, Any] = {"matching": True}
    for name, keys in _DECIDING_KEYS.items():
        key = next((key for key in keys if OmegaConf.select(model, key) is not None), None)
        found[name] = key is not None and f"${{...{key}}}"
    return found


def cross_stage_criterion(
    *,
    criterion_class: Any,
    csla: CrossStageLabels,
    csla_boxes: CrossStageBoxMatches | None = None,
    class_loss: ClassLoss | None = None,
    groups: Sequence[str] = ("matching",),
    available_groups: Mapping[str, Any] | None = None,
    num_stages: int | None = None,
    **arguments: Any,
) -> "CrossStageCriterion":
    """Build `criterion_class(**arguments)` inside a `CrossStageCriterion`; the target of the node of `with_csla`.

    `criterion_class` is a class or its dotted name, and `**arguments` are its arguments. The other arguments are those
    of `CrossStageCriterion`: `csla` its `labels`, `csla_boxes` its `box_matches`. `available_groups` says which query
    groups the model has; None means that this is not known.

    Raises:
        ImportError: if detrex is missing; says what to install.
        ValueError: for an unknown group, or one that the model lacks.
    """
    require_detrex()
    checked = check_groups(groups, available_groups)
    build = locate(criterion_class) if isinstance(criterion_class, str) else criterion_class
    return CrossStageCriterion(
        build(**arguments),
        labels=csla,
        groups=checked,
        box_matches=csla_boxes,
        class_loss=class_loss,
        num_stages=num_stages,
    )


class CrossStageCriterion(nn.Module):
    """A detrex criterion with cross-stage class labels. Arguments and results are those of the wrapped criterion.

    Args:
        criterion: a criterion of the form of detrex's SetCriterion, with the focal class loss.
        labels: the label rule.
        groups: names of the query groups that the rule applies to, see `csla.detrex_stages.GROUPS`. Other groups keep
            their own match and the wrapped class loss.
        box_matches: the rule for the box targets of these groups, or None.
        class_loss: called as (logits [S, B, N, K], labels bool [S, B, N, K], normalizer=) -> losses [S], such as
            `crossstage.modeling.supervision.losses.FocalClassLoss`. None means the focal loss with the wrapped
            criterion's alpha and gamma.
        num_stages: the number of decoder layers, or None if it is not known.

    Raises:
        TypeError: for another kind of criterion, or one whose class loss does not accept multi-hot labels.
        ValueError: for unknown groups.
    """

    def __init__(
        self,
        criterion: DetrexCriterion,
        *,
        labels: CrossStageLabels,
        groups: Sequence[str] = ("matching",),
        box_matches: CrossStageBoxMatches | None = None,
        class_loss: ClassLoss | None = None,
        num_stages: int | None = None,
    ) -> None:
        super().__init__()
        check_criterion(criterion, class_loss)
        self.criterion = criterion
        self.labels, self.groups = labels, check_groups(groups)
        self.box_matches, self.class_loss, self.num_stages = box_matches, class_loss, num_stages

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
            RuntimeError: for a decoder whose outputs are not one per layer, for outputs without one of the groups, and
                for a criterion that computes its class losses in another way (see `csla.detrex_step`).
        """
        found = stage_groups(outputs, *arguments, *keywords.values())
        self._check(found, any(len(target["labels"]) for target in targets), outputs)
        ruled = [group for group in found if group.name in self.groups]
        step = Step(self.criterion, ruled, class_losses=self.class_losses, box_matches=self.box_matches)
        return step.run(outputs, targets, *arguments, **keywords)

    def _check(self, found: Sequence[StageGroup], has_objects: bool, outputs: Outputs) -> None:
        """Raise RuntimeError for outputs to which the label rule would apply wrongly, or not at all."""
        for group in found:
            stages = len(group.stages)
            if group.name in self.groups and group.name != "proposals" and self.num_stages not in (None, stages):
                raise RuntimeError(
                    f"the outputs of {group.name} have {stages} stages, but the decoder has {self.num_stages} layers "
                    "(model.criterion.num_stages). csla.detrex needs one output per layer: aux_loss=True, and no "
                    "recollected queries (SQR-DETR)"
                )
        # Without an object in the batch, models of detrex have no denoising queries.
        if has_objects and (missing := missing_groups(self.groups, found, outputs)):
            names = ", ".join(group.name for group in found)
            raise RuntimeError(f"groups={list(self.groups)}: the outputs have no {missing[0]}; they have: {names}")

    def class_losses(
        self, outputs: StageOutputs, targets: PaddedTargets, matches: Tensor, *, num_boxes: float
    ) -> Tensor:
        """The class losses of a group, [S]; `matches` is int64 [S, B, N]."""
        labels = self.labels(outputs, targets, assignment(matches)).labels
        assert labels is not None  # the rule has set them
        if self.class_loss is not None:
            return self.class_loss(outputs.logits, labels, normalizer=num_boxes)
        alpha, gamma = self.criterion.alpha, self.criterion.gamma
        return sigmoid_focal_loss(outputs.logits, labels, alpha=alpha, gamma=gamma) / num_boxes

    def extra_repr(self) -> str:
        """The rules with all of their options, in the printed model."""
        return f"groups={list(self.groups)}, labels={self.labels}, box_matches={self.box_matches}"

    def __getattr__(self, name: str) -> Any:
        """Attributes that the adapter lacks (`weight_dict`, `num_classes`, ...) are those of the wrapped criterion."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "criterion":
                raise
            return getattr(self.criterion, name)


if __name__ == "__main__":
    from csla.detrex_check import main

    main()
