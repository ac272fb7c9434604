"""Criteria for tests: every query group with DETR's supervision, and what a test changes of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crossstage.modeling.supervision.criterion import SetCriterion
from crossstage.modeling.supervision.labels import OwnStageLabels
from crossstage.modeling.supervision.losses import BoxLoss, FocalClassLoss
from crossstage.modeling.supervision.matching import HungarianMatcher
from crossstage.modeling.supervision.normalizers import ObjectCount
from crossstage.modeling.supervision.supervision import Supervision

WEIGHTS = {"class": 1.0, "bbox": 5.0, "giou": 2.0}
NAMES = {
    "matching": "{loss}{stage}",
    "denoising": "{loss}_dn{stage}",
    "proposals": "{loss}_enc",
    "one_to_many": "{loss}{stage}_one2many",
}


def supervision(**changes: Any) -> Supervision:
    """DETR's supervision with other values for some arguments."""
    parts = {
        "matcher": HungarianMatcher(),
        "labels": OwnStageLabels(),
        "class_loss": FocalClassLoss(),
        "box_loss": BoxLoss(),
        "normalizer": ObjectCount(),
        "weights": WEIGHTS,
    }
    return Supervision(**{**parts, **changes})


def criterion(of_groups: Mapping[str, Mapping[str, Any]] | None = None, **changes: Any) -> SetCriterion:
    """All four groups. changes: of every supervision; of_groups: further ones by group."""
    own = of_groups or {}
    return SetCriterion(
        groups={name: supervision(**{"names": names, **changes, **own.get(name, {})}) for name, names in NAMES.items()}
    )
