"""Matching, losses and post-processing as all of detrex's detectors have them."""

from crossstage.config import LazyCall as L
from crossstage.modeling.postprocess import TopK
from crossstage.modeling.supervision.criterion import SetCriterion
from crossstage.modeling.supervision.labels import OwnStageLabels
from crossstage.modeling.supervision.matching import HungarianMatcher

criterion = L(SetCriterion)(
    matcher=L(HungarianMatcher)(cost_class=2.0, cost_bbox=5.0, cost_giou=2.0),
    weights={"loss_class": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0},
    labels=L(OwnStageLabels)(),
)
postprocess = L(TopK)(num_select=300)
