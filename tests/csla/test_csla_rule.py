"""CSLA in the criterion: the baseline where it should be, boxes untouched, only the groups it was asked for."""

import pytest
import torch

from crossstage.modeling.supervision.criterion import LabelCount, SetCriterion
from crossstage.modeling.supervision.labels import OwnStageLabels
from crossstage.modeling.supervision.matching import HungarianMatcher
from crossstage.structures import GroupOutputs, PaddedTargets, QueryGroup, StageOutputs
from csla import CrossStageBoxMatches, CrossStageLabels
from tests.random_scenes import boxes_inside, objects_of

BASELINE = {"look_back": 0, "look_ahead": 0, "iou_threshold": 0.0}


def scene(*counts: int, stages: int = 4, queries: int = 9) -> tuple[PaddedTargets, list[GroupOutputs]]:
    """Denoising, matching and proposals; most boxes lie near an object, so that labels do cross stages."""
    targets = PaddedTargets.of(objects_of(*counts))
    order = torch.where(targets.valid, torch.arange(targets.labels.shape[1]), -1)
    groups = [
        QueryGroup("denoising", order.shape[1], "{loss}_dn{stage}", matches=order),
        QueryGroup("matching", queries),
        QueryGroup("proposals", queries, "{loss}_enc"),
    ]
    predicted = []
    for group in groups:
        depth = 1 if group.name == "proposals" else stages
        shape = (depth, len(counts), group.size)
        if targets.num_objects:
            picked = torch.randint(0, max(targets.labels.shape[1], 1), shape[1:])
            near = targets.boxes.gather(1, picked[..., None].expand(-1, -1, 4)).expand(depth, -1, -1, -1)
            boxes = (near + 0.02 * torch.randn(*shape, 4)).clamp(0.01, 0.99)
        else:
            boxes = boxes_inside(*shape)
        outputs = StageOutputs(torch.randn(*shape, 8).requires_grad_(), boxes.requires_grad_())
        predicted.append(GroupOutputs(group, outputs))
    return targets, predicted


def criterion(**options) -> SetCriterion:
    weights = {"loss_class": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0}
    return SetCriterion(matcher=HungarianMatcher(), weights=weights, **options)


@pytest.mark.parametrize("counts", [(4, 2), (0, 3), (0, 0), (20, 1)])
def test_its_own_stage_without_threshold_is_the_baseline_bit_for_bit(counts):
    targets, groups = scene(*counts)
    matching = groups[1].outputs
    matches = HungarianMatcher()([matching], targets)[0]
    assert CrossStageLabels(**BASELINE)(matching, targets, matches).equal(OwnStageLabels()(matching, targets, matches))
    ours, theirs = (criterion(labels=rule)(groups, targets) for rule in (CrossStageLabels(**BASELINE), None))
    assert list(ours) == list(theirs)
    assert all(loss.equal(theirs[name]) for name, loss in ours.items())
    gradients = [torch.autograd.grad(sum(losses.values()), matching.logits)[0] for losses in (ours, theirs)]
    assert gradients[0].equal(gradients[1])


@pytest.mark.parametrize("options", [{}, {"look_back": None}, {"plain_last_stages": 2}])
def test_a_single_stage_without_threshold_is_the_baseline_too(options):
    targets, groups = scene(4, 2, stages=1)
    ours = criterion(labels=CrossStageLabels(iou_threshold=0.0, **options))(groups, targets)
    assert all(loss.equal(ours[name]) for name, loss in criterion()(groups, targets).items())


def test_one_query_for_several_objects():
    targets, groups = scene(3, 1, queries=1)
    losses = criterion(labels=CrossStageLabels())(groups, targets)
    assert all(loss.isfinite() for loss in losses.values())


def test_class_losses_of_the_matching_group_are_all_that_changes():
    targets, groups = scene(4, 2)
    ours, theirs = criterion(labels=CrossStageLabels())(groups, targets), criterion()(groups, targets)
    changed = {name for name, loss in ours.items() if not loss.equal(theirs[name])}
    assert changed
    assert changed <= {"loss_class", "loss_class_0", "loss_class_1", "loss_class_2"}


def test_label_groups_decide_where_it_acts():
    targets, groups = scene(4, 2)
    theirs = criterion()(groups, targets)
    rule = CrossStageLabels(iou_threshold=1.0)  # nothing overlaps that well: every label vanishes
    for asked in (("matching",), ("denoising",), ("matching", "proposals"), ()):
        ours = criterion(labels=rule, label_groups=asked)(groups, targets)
        for name, loss in ours.items():
            group = "denoising" if "_dn" in name else "proposals" if "_enc" in name else "matching"
            assert loss.equal(theirs[name]) == (group not in asked or "class" not in name), (asked, name)


def test_gathered_box_targets_change_box_losses_of_earlier_stages():
    targets, groups = scene(4, 2)
    gathering = criterion(
        labels=CrossStageLabels(), box_matches=CrossStageBoxMatches(iou_threshold=0.1), normalizer=LabelCount()
    )
    plain = criterion(labels=CrossStageLabels(), normalizer=LabelCount())
    ours, theirs = gathering(groups, targets), plain(groups, targets)
    changed = {name for name, loss in ours.items() if not loss.equal(theirs[name])}
    assert changed
    assert changed <= {f"loss_{kind}_{stage}" for kind in ("bbox", "giou") for stage in range(3)}


def test_gathered_box_targets_keep_every_match_of_their_own():
    targets, groups = scene(4, 2)
    outputs = groups[1].outputs
    matches = HungarianMatcher()([outputs], targets)[0]
    gathered = CrossStageBoxMatches(iou_threshold=0.1)(outputs, targets, matches)
    assert gathered[matches >= 0].equal(matches[matches >= 0])
    assert (gathered >= 0).sum() > (matches >= 0).sum()


@pytest.mark.parametrize("counts", [(4, 2), (0, 9), (0, 0)])
def test_the_whole_criterion_waits_for_the_device_once(transfers, counts):
    targets, groups = scene(*counts)
    transfers.clear()
    rules = {"labels": CrossStageLabels(), "box_matches": CrossStageBoxMatches(), "normalizer": LabelCount()}
    sum(criterion(**rules)(groups, targets).values()).backward()
    assert transfers == ["cpu"]


@pytest.mark.parametrize("rule", [CrossStageLabels, CrossStageBoxMatches])
@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"iou_threshold": 1.5}, "iou_threshold=1.5: expected a number from 0 to 1"),
        ({"iou_threshold": -0.1}, "iou_threshold=-0.1: expected a number from 0 to 1"),
        ({"iou_threshold": float("nan")}, "iou_threshold=nan: expected a number from 0 to 1"),
        ({"look_back": -1}, "look_back=-1: expected the number of stages to reach, or None for all"),
        ({"look_ahead": -2}, "look_ahead=-2: expected the number of stages to reach, or None for all"),
    ],
)
def test_impossible_options_are_named(rule, options, complaint):
    with pytest.raises(ValueError, match=complaint):
        rule(**options)
