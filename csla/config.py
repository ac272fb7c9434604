"""`with_csla`: adds cross-stage labels to an existing detector config."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from crossstage.config import LazyCall as L
from crossstage.config.groups import supervisions
from crossstage.config.nodes import is_call_of
from csla.rule import CrossStageBoxMatches, CrossStageLabels


def with_csla(model: Any, *, groups: Sequence[str] = ("matching",), localisation: bool = False, **options: Any) -> Any:
    """Return a copy of a model node whose query groups take class labels across stages.

    Only `criterion.groups.<group>.labels` of each group is replaced. A second call replaces the result of the first.

    Args:
        model: a LazyConfig node with a `criterion`.
        groups: names of query groups in `criterion.groups`.
        localisation: whether box targets are gathered from later stages too (Table 12); adds a rule to the
            `adjustments` of the groups.
        **options: options of `csla.CrossStageLabels` (iou_threshold, look_back, look_ahead, filter_own,
            plain_last_stages). Where a rule decides how many queries an object gets (`matcher.copies`, as in
            PaQ-DETR), `plain_last_stages` is 1 unless given: the last stage would otherwise take over the copies of the
            stage before it, and detections would need NMS.

    Returns:
        The changed copy.

    Raises:
        ValueError: for a model without a criterion, an unknown group, or an option with an impossible value.
        TypeError: for an unknown option.
    """
    CrossStageLabels(**options)  # an unknown or impossible option must fail here, not later when the model is built
    _check_model(model)
    model = copy.deepcopy(model)
    for supervision in supervisions(model, groups, needed_by="with_csla").values():
        has_copies_rule = OmegaConf.is_dict(OmegaConf.select(supervision, "matcher.copies"))
        plain = {"plain_last_stages": 1} if has_copies_rule else {}
        supervision.labels = L(CrossStageLabels)(**{**plain, **options})
        others = [rule for rule in supervision.adjustments if not is_call_of(rule, CrossStageBoxMatches)]
        if localisation:
            others.append(box_matches_node(options))
        supervision.adjustments = others
    return model


def _check_model(model: Any) -> None:
    """Raise ValueError, with the remedy, for anything but a model node with query groups in its criterion."""
    criterion = model.get("criterion") if isinstance(model, Mapping) else None
    if isinstance(criterion, Mapping) and isinstance(criterion.get("groups"), Mapping):
        return
    if isinstance(criterion, Mapping) and "_target_" in criterion:
        raise ValueError(
            "the model's criterion has no query groups (`criterion.groups`), as those of crossstage have; for a model "
            "of detrex use `from csla.detrex import with_csla`"
        )
    if isinstance(model, Mapping) and "criterion" in (model.get("model") or {}):
        raise ValueError("with_csla got a whole config; give it the node of the model: with_csla(config.model)")
    raise ValueError("with_csla needs a model node that has `criterion.groups`, such as that of projects/dino")


def box_matches_node(options: Mapping[str, Any]) -> Any:
    """The node of CrossStageBoxMatches with the window and the threshold of `with_csla`'s options."""
    shared = {name: options[name] for name in ("iou_threshold", "look_back", "look_ahead") if name in options}
    return L(CrossStageBoxMatches)(**shared)
