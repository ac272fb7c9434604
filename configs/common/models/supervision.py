"""Matching, losses and post-processing as all of detrex's detectors have them.

A project with more query groups adds a supervision for each: `like(criterion.groups.matching, names=...)`.
"""

from crossstage.config import LazyCall as L
from crossstage.layers.boxes import BoxDistance
from crossstage.modeling.postprocess import TopK
from crossstage.modeling.supervision.criterion import SetCriterion
from crossstage.modeling.supervision.labels import OwnStageLabels
from crossstage.modeling.supervision.losses import BoxLoss, FocalClassLoss
from crossstage.modeling.supervision.matching import FocalClassCost, HungarianMatcher
from crossstage.modeling.supervision.normalizers import ObjectCount
from crossstage.modeling.supervision.supervision import Supervision

criterion = L(SetCriterion)(
    groups={
        "matching": L(Supervision)(
            matcher=L(HungarianMatcher)(
                class_cost=L(FocalClassCost)(alpha=0.25, gamma=2.0, eps=1e-8),
                box_distance=L(BoxDistance)(corners=False, eps=1e-6),
                cost_class=2.0,
                cost_bbox=5.0,
                cost_giou=2.0,
                copies=1,
            ),
            labels=L(OwnStageLabels)(),
            adjustments=[],
            class_loss=L(FocalClassLoss)(),
            box_loss=L(BoxLoss)(distance="${up:matcher.box_distance}"),
            normalizer=L(ObjectCount)(copies="${up:matcher.copies}"),  # an object counts once per matched query
            weights={"class": 1.0, "bbox": 5.0, "giou": 2.0},
            names="{loss}{stage}",
            class_agnostic=False,
        )
    }
)
postprocess = L(TopK)(num_select=300)
