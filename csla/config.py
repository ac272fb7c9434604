"""`with_csla`: an existing detector config with cross-stage labels."""

import copy
from typing import Any

from crossstage.config import LazyCall as L
from csla.rule import CrossStageBoxMatches, CrossStageLabels


def with_csla(model: Any, *, localisation: bool = False, **options: Any) -> Any:
    """Return a copy of a model node whose criterion takes class labels across stages.

    model: a LazyConfig node with a `criterion`.  options: of `csla.CrossStageLabels` (iou_threshold, look_back,
    look_ahead, filter_own, plain_last_stages).  localisation: gather box targets from later stages too (Table 12).
    Only `criterion.labels` (and `criterion.box_matches`) change. Raises ValueError for a model without a criterion
    and TypeError for an unknown option.
    """
    CrossStageLabels(**options)  # an unknown or impossible option should fail here, beside the line that gives it
    if "criterion" not in model:
        raise ValueError("with_csla needs a model node that has a `criterion`, such as projects/dino's")
    model = copy.deepcopy(model)
    model.criterion.labels = L(CrossStageLabels)(**options)
    model.criterion.pop("box_matches", None)  # of an earlier with_csla: the last one decides
    if localisation:
        shared = {name: options[name] for name in ("iou_threshold", "look_back", "look_ahead") if name in options}
        model.criterion.box_matches = L(CrossStageBoxMatches)(**shared)
    return model
