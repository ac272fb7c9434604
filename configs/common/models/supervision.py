"""Matching, losses and post-processing as all of detrex's detectors have them."""

from detrkit.config import LazyCall as L
from detrkit.modeling.criterion import SetCriterion
from detrkit.modeling.labels import OwnStageLabels
from detrkit.modeling.matching import HungarianMatcher
from detrkit.modeling.postprocess import TopK

criterion = L(SetCriterion)(
    matcher=L(HungarianMatcher)(cost_class=2.0, cost_bbox=5.0, cost_giou=2.0),
    weights={"loss_class": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0},
    labels=L(OwnStageLabels)(),
)
postprocess = L(TopK)(num_select=300)
