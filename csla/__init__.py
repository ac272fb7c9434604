"""Cross-stage label assignment (StageInteractor, ICCV 2023) for query-based detectors.

`with_csla(model)` puts it into a config; `CrossStageLabels` is the rule; `cross_stage_labels` the equation.
"""

from csla.config import with_csla
from csla.labels import ANY_OVERLAP, cross_stage_box_matches, cross_stage_labels, cross_stage_scores
from csla.rule import CrossStageBoxMatches, CrossStageLabels

__all__ = [
    "ANY_OVERLAP",
    "CrossStageBoxMatches",
    "CrossStageLabels",
    "cross_stage_box_matches",
    "cross_stage_labels",
    "cross_stage_scores",
    "with_csla",
]
