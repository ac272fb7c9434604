"""One call of a detrex criterion, whose class losses are computed when the matches of all its stages are known.

A criterion of detrex matches one stage, computes its losses and continues with the next stage. During its `forward`,
`loss_labels` only stores its arguments and returns a `LaterLoss`, which the criterion puts into its dict of losses
under a name of its own. After `forward`, the label rule gets the matches of all stages, and each loss takes its place.
The matches are therefore always those that the criterion gave to its own class loss: of its matcher, of another
assigner (DETA), of several groups of queries (Group-DETR), or changed by a subclass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from crossstage.structures import Assignment, PaddedTargets, QueryGroup, StageOutputs
from csla.detrex_stages import (
    DetrexCriterion,
    Indices,
    Outputs,
    StageGroup,
    as_indices,
    as_matches,
    as_targets,
    stage_key,
)
from csla.rule import CrossStageBoxMatches
from csla.shadowed import shadowed

ClassLosses = Callable[..., Tensor]
"""(outputs, targets, matches int64 [S, B, N], num_boxes=number) -> losses [S]."""


class LaterLoss:
    """Stands for a loss that is not known yet. The criterion may store it; any other use raises RuntimeError."""

    def __init__(self, refusal: str) -> None:
        self.__dict__["refusal"] = refusal

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError(self.__dict__["refusal"])

    @classmethod
    def __torch_function__(cls, _function: Any, _types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        """Raise for every function of torch that gets this object."""
        for value in (*arguments, *(keywords or {}).values()):
            for item in value if isinstance(value, list | tuple) else (value,):
                if isinstance(item, cls):
                    item._refuse()

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __pow__ = _refuse
    __neg__ = __float__ = __bool__ = __lt__ = __gt__ = __getattr__ = _refuse


@dataclass(frozen=True)
class Call:
    """The arguments of a loss of one stage, and the LaterLoss of each of its names."""

    outputs: Outputs
    targets: Sequence[Mapping[str, Tensor]]
    indices: Indices
    num_boxes: float
    keywords: Mapping[str, Any]
    losses: Mapping[str, LaterLoss]


class Step:
    """One call of a criterion with cross-stage labels.

    Args:
        criterion: the wrapped criterion.
        groups: the query groups that the rules apply to.
        class_losses: computes the class losses of all stages of a group.
        box_matches: the rule for the box targets, or None: the criterion then computes its box losses as usual.
    """

    def __init__(
        self,
        criterion: DetrexCriterion,
        groups: Sequence[StageGroup],
        *,
        class_losses: ClassLosses,
        box_matches: CrossStageBoxMatches | None,
    ) -> None:
        self.criterion, self.groups, self.class_losses, self.box_rule = criterion, groups, class_losses, box_matches
        self.own_class_loss, self.own_box_loss = criterion.loss_labels, criterion.loss_boxes
        self.ruled = {key for group in groups for key in group.stage_keys()}
        self.class_calls: dict[int, Call] = {}
        self.box_calls: dict[int, Call] = {}

    def run(self, *arguments: Any, **keywords: Any) -> Any:
        """Call the criterion, and return its result with all losses.

        Raises:
            RuntimeError: if the criterion did not call its losses once per stage, or if it calculated with their
                results.
        """
        methods: dict[str, Any] = {"loss_labels": self._loss_labels}
        if self.box_rule is not None:
            methods["loss_boxes"] = self._loss_boxes
        with shadowed(self.criterion, **methods):
            result = self.criterion(*arguments, **keywords)
        self._check_calls()
        losses: dict[int, Tensor] = {}
        for group in self.groups:
            with torch.autocast(group.stages[0]["pred_logits"].device.type, enabled=False):
                losses |= self._losses_of(group)
        result, used = _filled(result, losses)
        if used != set(losses):
            raise RuntimeError(f"{self._name} does not return all of its losses; {_ADVICE}")
        return result

    @property
    def _name(self) -> str:
        return type(self.criterion).__name__

    def _loss_labels(
        self, outputs: Outputs, targets: Any, indices: Indices, num_boxes: float, **keywords: Any
    ) -> Mapping[str, Any]:
        """Replaces the criterion's class loss; stages of other groups get the criterion's own."""
        if stage_key(outputs) not in self.ruled:
            return self.own_class_loss(outputs, targets, indices, num_boxes, **keywords)
        return self._later(self.class_calls, ["loss_class"], (outputs, targets, indices, num_boxes), keywords)

    def _loss_boxes(
        self, outputs: Outputs, targets: Any, indices: Indices, num_boxes: float, **keywords: Any
    ) -> Mapping[str, Any]:
        """Replaces the criterion's box losses if their targets are gathered over the stages."""
        arguments = (outputs, targets, indices, num_boxes)
        if stage_key(outputs) not in self.ruled:
            return self.own_box_loss(*arguments, **keywords)
        with torch.no_grad():  # only for the names of these losses
            names = list(self.own_box_loss(*arguments, **keywords))
        return self._later(self.box_calls, names, arguments, keywords)

    def _later(
        self, calls: dict[int, Call], names: Sequence[str], arguments: tuple[Any, ...], keywords: Mapping[str, Any]
    ) -> Mapping[str, LaterLoss]:
        outputs, targets, indices, num_boxes = arguments
        if stage_key(outputs) in calls:
            raise RuntimeError(f"{self._name} computes the same loss of a stage twice; csla.detrex has one per stage")
        losses = {name: LaterLoss(f"{self._name} calculates with {name}; {_ADVICE}") for name in names}
        # The criterion may replace entries of the targets afterwards (DINO's two_stage_binary_cls does).
        kept = [dict(target) for target in targets]
        calls[stage_key(outputs)] = Call(outputs, kept, indices, num_boxes, keywords, losses)
        return losses

    def _check_calls(self) -> None:
        """Raise RuntimeError for a criterion that computes its losses in another way, without our labels."""
        for kind, calls in [("class", self.class_calls)] + [("boxes", self.box_calls)] * (self.box_rule is not None):
            if calls.keys() != self.ruled:
                raise RuntimeError(
                    f"{self._name} computed its loss '{kind}' for {len(calls)} of {len(self.ruled)} stages of "
                    f"{', '.join(group.name for group in self.groups)} by `loss_labels` or `loss_boxes`; "
                    "csla.detrex needs a criterion that calls these methods for each stage"
                )

    def _losses_of(self, group: StageGroup) -> dict[int, Tensor]:
        """The losses of a group by the identity of their LaterLoss."""
        losses: dict[int, Tensor] = {}
        outputs = group.outputs()
        if calls := [self.class_calls[key] for key in group.stage_keys() if key in self.class_calls]:
            objects, matches = self._of_all_stages(calls, outputs)
            by_stage = self.class_losses(outputs, objects, matches, num_boxes=calls[0].num_boxes)
            # Models of detrex multiply each loss by its weight in place, which autograd forbids for views of `unbind`.
            for call, loss in zip(calls, by_stage, strict=True):
                losses[id(call.losses["loss_class"])] = loss.clone()
        if calls := [self.box_calls[key] for key in group.stage_keys() if key in self.box_calls]:
            for call, indices in zip(calls, self._box_indices(calls, outputs), strict=True):
                own = self.own_box_loss(call.outputs, call.targets, indices, call.num_boxes, **call.keywords)
                losses |= {id(call.losses[name]): loss for name, loss in own.items()}
        return losses

    def _box_indices(self, calls: Sequence[Call], outputs: StageOutputs) -> list[Indices]:
        """The box targets of a group's stages, gathered over the stages by the rule."""
        assert self.box_rule is not None  # there are no such calls otherwise
        if any(len(queries) != len(queries.unique()) for call in calls for queries, _ in call.indices):
            raise RuntimeError(
                f"{self._name} matched a query with two objects; its box targets cannot come from other stages: "
                "call with_csla without localisation"
            )
        objects, matches = self._of_all_stages(calls, outputs)
        regrouped = self.box_rule(outputs, objects, assignment(matches))
        return as_indices(regrouped.box_matches)

    def _of_all_stages(self, calls: Sequence[Call], outputs: StageOutputs) -> tuple[PaddedTargets, Tensor]:
        """The objects, and the matches int64 [S, B, N], of a group's stages."""
        first = calls[0]
        for call in calls[1:]:
            if call.num_boxes != first.num_boxes or not _same_objects(call.targets, first.targets):
                raise RuntimeError(
                    f"{self._name} has other objects or another normaliser at some stages; labels can be taken "
                    "across stages only if all of them have the same"
                )
        return as_targets(first.targets), as_matches([call.indices for call in calls], outputs.boxes)


_ADVICE = (
    "with csla.detrex, the class losses are known only after the criterion's forward. Put factors into weight_dict, or "
    "give class_loss"
)


def assignment(matches: Tensor) -> Assignment:
    """The argument of a label rule, from matches int64 [S, B, N]."""
    return Assignment(QueryGroup("matching", matches.shape[-1]), matches, box_matches=matches)


def _same_objects(some: Sequence[Mapping[str, Tensor]], others: Sequence[Mapping[str, Tensor]]) -> bool:
    """Whether two lists of targets have the same labels and boxes; usually they hold the same tensors."""
    pairs = [(a[name], b[name]) for a, b in zip(some, others, strict=True) for name in ("labels", "boxes")]
    return all(a is b or torch.equal(a, b) for a, b in pairs)


def _filled(value: Any, losses: Mapping[int, Tensor]) -> tuple[Any, set[int]]:
    """A criterion's result with each LaterLoss replaced by its loss, and the identities of those that were found."""
    if isinstance(value, LaterLoss):
        return losses[id(value)], {id(value)}
    if type(value) not in (dict, list, tuple):
        return value, set()
    items = list(value.values()) if isinstance(value, dict) else list(value)
    filled = [_filled(item, losses) for item in items]
    used = {identity for _, found in filled for identity in found}
    results = [item for item, _ in filled]
    return (dict(zip(value, results, strict=True)) if isinstance(value, dict) else type(value)(results)), used
