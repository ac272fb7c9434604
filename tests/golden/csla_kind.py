"""Folders `csla_*`: multi-hot targets of all scopes and thresholds, their divisors and losses."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from crossstage.layers.boxes import BoxDistance, xyxy_to_cxcywh
from crossstage.modeling.supervision.losses import FocalClassLoss, box_losses
from crossstage.modeling.supervision.matching import FocalClassCost, HungarianMatcher, Pairs
from crossstage.modeling.supervision.normalizers import LabelCount
from crossstage.structures import Assignment, PaddedTargets, QueryGroup, StageOutputs, Target
from csla import ANY_OVERLAP, CrossStageBoxMatches, CrossStageLabels
from tests.golden.folder import Comparison, GoldenFolder, Row

CORNER_DISTANCE = BoxDistance(corners=True, eps=1e-30)
"""mmdetection's: L1 over corners; IoU denominators clamped at 1e-6 square pixels, which no box here comes near."""

SCOPES = {
    "i_i": {"look_back": 0, "look_ahead": 0},
    "im1_i": {"look_back": 1, "look_ahead": 0},
    "im1_ip1": {"look_back": 1, "look_ahead": 1},
    "im1_L": {"look_back": 1, "look_ahead": None},
    "1_L": {"look_back": None, "look_ahead": None},
    "all_but_last2_im1_L": {"look_back": 1, "look_ahead": None, "plain_last_stages": 2},
}


def compare(folder: GoldenFolder) -> list[Row]:
    """Every `<threshold>.<scope>.*` key, and the matching costs of stage 0 where the folder has them."""
    rows = []
    for case in folder.cases:
        inputs, expected = folder.inputs(case), folder.expected(case)
        comparison = Comparison(expected, prefix=f"{case.lstrip('_')}." if case else "")
        scene = _Scene(inputs)
        for key in sorted({name.rsplit(".", 1)[0] for name in expected if name.endswith(".targets")}):
            scene.check_variant(comparison, key)
        scene.check_costs(comparison)
        rows += comparison.finish()
    return rows


class _Scene:
    """The stages' predictions and the objects of the images. The reference works in absolute corners."""

    def __init__(self, inputs: dict[str, Tensor]) -> None:
        height, width = inputs["image_sizes_hw"].double().unbind(-1)
        self.extent = torch.stack([width, height, width, height], dim=-1)  # [B, 4]
        targets = [
            Target(inputs[f"gt_labels{image}"], xyxy_to_cxcywh(inputs[f"gt_boxes{image}"] / self.extent[image]))
            for image in range(len(self.extent))
        ]
        self.targets = PaddedTargets.of(targets)
        self.outputs = StageOutputs(inputs["cls_logits"], xyxy_to_cxcywh(inputs["boxes"] / self.extent[:, None]))
        self.matches = inputs["match_gt_inds"] - 1

    def check_variant(self, comparison: Comparison, key: str) -> None:
        variant, scope = key.rsplit(".", 1)
        options = SCOPES[scope]
        threshold = float(found.group(1)) if (found := re.search(r"eta([0-9.]+)$", variant)) else ANY_OVERLAP
        rules = [CrossStageLabels(iou_threshold=threshold, **options)]
        if variant.startswith("loc"):
            window = {name: options[name] for name in ("look_back", "look_ahead")}
            rules.append(CrossStageBoxMatches(iou_threshold=threshold, **window))
        group = QueryGroup("matching", self.matches.shape[-1])
        assignment = Assignment(group, self.matches, box_matches=self.matches)
        for rule in rules:
            assignment = rule(self.outputs, self.targets, assignment)
        labels, box_matches = assignment.labels, assignment.box_matches
        class_count, box_count = LabelCount()(self.targets, assignment)
        class_loss = FocalClassLoss()(self.outputs.logits, labels, normalizer=class_count)
        distance, overlap = box_losses(self.outputs.boxes, self.targets, box_matches, box_distance=CORNER_DISTANCE)
        comparison.check(f"{key}.targets", labels.double())
        comparison.check(f"{key}.avg_factor_cls", class_count)
        comparison.check(f"{key}.avg_factor_reg", box_count)
        comparison.check(f"{key}.loss_cls", 2 * class_loss)
        comparison.check(f"{key}.loss_bbox", 5 * distance / box_count)
        comparison.check(f"{key}.loss_iou", 2 * overlap / box_count)

    def check_costs(self, comparison: Comparison) -> None:
        """The keys `<kind>.stage<i>.image<b>`: [N, T] matrices of the whole cost and of its parts."""
        for name in [name for name in comparison.expected if ".stage" in name]:
            kind, stage, image = name.split(".")
            stage, image = int(stage.removeprefix("stage")), int(image.removeprefix("image"))
            count = self.targets.counts[image]
            comparison.check(name, self._cost(kind, stage)[image, :count].transpose(0, 1))

    def _cost(self, kind: str, stage: int) -> Tensor:
        weights = {
            "cost": (2, 5, 2),
            "cls_cost_unweighted": (1, 0, 0),
            "l1_cost_unweighted": (0, 1, 0),
            "giou_cost_unweighted": (0, 0, 1),
        }[kind]
        matcher = HungarianMatcher(
            class_cost=FocalClassCost(eps=1e-12),
            box_distance=CORNER_DISTANCE,
            **dict(zip(("cost_class", "cost_bbox", "cost_giou"), weights, strict=True)),
        )
        one = StageOutputs(self.outputs.logits[stage, None], self.outputs.boxes[stage, None])
        return matcher.cost(Pairs(one, self.targets))[0]
