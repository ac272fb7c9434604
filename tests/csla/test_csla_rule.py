"""CSLA in the criterion: the baseline where it should be, boxes untouched, only the groups it was asked for."""

import pytest
import torch

from crossstage.modeling.supervision.labels import OwnStageLabels
from crossstage.modeling.supervision.matching import HungarianMatcher
from crossstage.modeling.supervision.normalizers import LabelCount
from crossstage.structures import Assignment, GroupOutputs, PaddedTargets, QueryGroup, StageOutputs
from csla import CrossStageBoxMatches, CrossStageLabels
from tests.random_scenes import boxes_inside, objects_of
from tests.supervisions import criterion

BASELINE = {"look_back": 0, "look_ahead": 0, "iou_threshold": 0.0}


def scene(*counts: int, stages: int = 4, queries: int = 9) -> tuple[PaddedTargets, list[GroupOutputs]]:
    """Denoising, matching and proposals; most boxes lie near an object, so that labels do cross stages."""
    targets = PaddedTargets.of(objects_of(*counts))
    order = torch.where(targets.valid, torch.arange(targets.labels.shape[1]), -1)
    groups = [
        QueryGroup("denoising", order.shape[1], matches=order),
        QueryGroup("matching", queries),
        QueryGroup("proposals", queries),
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


def losses(groups: list[GroupOutputs], targets: PaddedTargets, on: tuple[str, ...] = ("matching",), **changes) -> dict:
    """The terms of all groups, with changes to the supervision of some of them."""
    return dict(criterion(dict.fromkeys(on, changes))(groups, targets).terms)


def assigned(outputs: StageOutputs, targets: PaddedTargets) -> Assignment:
    """What a rule is given for the matching group."""
    matches = HungarianMatcher()(outputs, targets)
    return Assignment(QueryGroup("matching", matches.shape[-1]), matches, matches)


@pytest.mark.parametrize("counts", [(4, 2), (0, 3), (0, 0), (20, 1)])
def test_its_own_stage_without_threshold_is_the_baseline_bit_for_bit(counts):
    targets, groups = scene(*counts)
    matching = groups[1].outputs
    given, rules = assigned(matching, targets), (CrossStageLabels(**BASELINE), OwnStageLabels())
    cross, own = (rule(matching, targets, given).labels for rule in rules)
    assert cross.equal(own)
    ours, theirs = (losses(groups, targets, labels=rule) for rule in rules)
    assert list(ours) == list(theirs)
    assert all(loss.equal(theirs[name]) for name, loss in ours.items())
    gradients = [torch.autograd.grad(sum(terms.values()), matching.logits)[0] for terms in (ours, theirs)]
    assert gradients[0].equal(gradients[1])


@pytest.mark.parametrize("options", [{}, {"look_back": None}, {"plain_last_stages": 2}])
def test_a_single_stage_without_threshold_is_the_baseline_too(options):
    targets, groups = scene(4, 2, stages=1)
    ours = losses(groups, targets, labels=CrossStageLabels(iou_threshold=0.0, **options))
    assert all(loss.equal(ours[name]) for name, loss in losses(groups, targets).items())


def test_one_query_for_several_objects():
    targets, groups = scene(3, 1, queries=1)
    ours = losses(groups, targets, labels=CrossStageLabels())
    assert all(loss.isfinite() for loss in ours.values())


def test_class_losses_of_the_matching_group_are_all_that_changes():
    targets, groups = scene(4, 2)
    ours, theirs = losses(groups, targets, labels=CrossStageLabels()), losses(groups, targets)
    changed = {name for name, loss in ours.items() if not loss.equal(theirs[name])}
    assert changed
    assert changed <= {"loss_class", "loss_class_0", "loss_class_1", "loss_class_2"}


def test_it_acts_on_the_groups_that_have_it():
    targets, groups = scene(4, 2)
    theirs = losses(groups, targets)
    rule = CrossStageLabels(iou_threshold=1.0)  # nothing overlaps that well: every label vanishes
    for asked in (("matching",), ("denoising",), ("matching", "proposals"), ()):
        ours = losses(groups, targets, asked, labels=rule)
        for name, loss in ours.items():
            group = "denoising" if "_dn" in name else "proposals" if "_enc" in name else "matching"
            assert loss.equal(theirs[name]) == (group not in asked or "class" not in name), (asked, name)


def test_gathered_box_targets_change_box_losses_of_earlier_stages():
    targets, groups = scene(4, 2)
    common = {"labels": CrossStageLabels(), "normalizer": LabelCount()}
    theirs = losses(groups, targets, **common)
    ours = losses(groups, targets, adjustments=[CrossStageBoxMatches(iou_threshold=0.1)], **common)
    changed = {name for name, loss in ours.items() if not loss.equal(theirs[name])}
    assert changed
    assert changed <= {f"loss_{kind}_{stage}" for kind in ("bbox", "giou") for stage in range(3)}


def test_gathered_box_targets_keep_every_match_of_their_own():
    targets, groups = scene(4, 2)
    outputs = groups[1].outputs
    given = assigned(outputs, targets)
    matches, gathered = given.matches, CrossStageBoxMatches(iou_threshold=0.1)(outputs, targets, given).box_matches
    assert gathered[matches >= 0].equal(matches[matches >= 0])
    assert (gathered >= 0).sum() > (matches >= 0).sum()


@pytest.mark.parametrize("counts", [(4, 2), (0, 9), (0, 0)])
def test_the_whole_criterion_waits_for_the_device_once(transfers, counts):
    targets, groups = scene(*counts)
    transfers.clear()
    rules = {"labels": CrossStageLabels(), "adjustments": [CrossStageBoxMatches()], "normalizer": LabelCount()}
    criterion({"matching": rules})(groups, targets).total.backward()
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
