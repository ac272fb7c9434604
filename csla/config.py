"""`with_csla`: an existing detector config with cross-stage labels."""

import copy
from collections.abc import Sequence
from typing import Any

from crossstage.config import LazyCall as L
from crossstage.config.names import suggestion
from csla.rule import CrossStageBoxMatches, CrossStageLabels


def with_csla(model: Any, *, groups: Sequence[str] = ("matching",), localisation: bool = False, **options: Any) -> Any:
    """Return a copy of a model node whose query groups take class labels across stages.

    `criterion.groups.<group>.labels` of each group is replaced, and nothing else. A second call replaces the first.

    Args:
        model: a LazyConfig node with a `criterion`.
        groups: names of query groups, of those in `criterion.groups`.
        localisation: gather box targets from later stages too (Table 12); adds a rule to the groups' `adjustments`.
        **options: of `csla.CrossStageLabels` (iou_threshold, look_back, look_ahead, filter_own, plain_last_stages).

    Raises:
        ValueError: for a model without a criterion, an unknown group, or an option with an impossible value.
        TypeError: for an unknown option.
    """
    CrossStageLabels(**options)  # an unknown or impossible option should fail here, at the line that gives it
    if "criterion" not in model or "groups" not in model.criterion:
        raise ValueError("with_csla needs a model node that has `criterion.groups`, such as that of projects/dino")
    model = copy.deepcopy(model)
    known = list(model.criterion.groups)
    for group in groups:
        if group not in known:
            hint = suggestion(group, known)
            raise ValueError(f"groups={list(groups)}: the model has no query group {group!r}. It has: {known}.{hint}")
        supervision = model.criterion.groups[group]
        supervision.labels = L(CrossStageLabels)(**options)
        others = [rule for rule in supervision.adjustments if rule._target_ is not CrossStageBoxMatches]
        if localisation:
            shared = {name: options[name] for name in ("iou_threshold", "look_back", "look_ahead") if name in options}
            others.append(L(CrossStageBoxMatches)(**shared))
        supervision.adjustments = others
    return model
