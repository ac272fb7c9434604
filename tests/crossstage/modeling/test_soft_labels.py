"""Class targets that are numbers: rules that compose, and the losses that take them."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from crossstage.layers.boxes import box_iou, cxcywh_to_xyxy
from crossstage.layers.focal import sigmoid_focal_loss
from crossstage.modeling.supervision.labels import OverlapTargets, OwnStageLabels
from crossstage.modeling.supervision.losses import (
    FocalClassLoss,
    QualityFocalClassLoss,
    SoftmaxClassLoss,
    VarifocalClassLoss,
)
from crossstage.modeling.supervision.normalizers import LabelCount
from crossstage.structures import Assignment, GroupOutputs, PaddedTargets, QueryGroup, StageOutputs, Target
from csla import CrossStageLabels
from tests.random_scenes import objects_of, predictions
from tests.supervisions import criterion

ONE = torch.tensor(1.0, dtype=torch.float64)


def near_objects(targets: PaddedTargets, stages: int = 3, queries: int = 9) -> StageOutputs:
    """Predictions whose boxes lie near objects."""
    batch, count = targets.labels.shape
    picked = torch.randint(0, count, (batch, queries, 1)).expand(-1, -1, 4)
    boxes = targets.boxes.gather(1, picked) + 0.03 * torch.randn(stages, batch, queries, 4, dtype=torch.float64)
    return StageOutputs(
        torch.randn(stages, batch, queries, 8, dtype=torch.float64).requires_grad_(), boxes.clamp(0.02, 0.98)
    )


def assigned(outputs: StageOutputs, targets: PaddedTargets, *rules) -> Assignment:
    matches = criterion().supervision("matching").matcher(outputs, targets)
    assignment = Assignment(QueryGroup("matching", matches.shape[-1]), matches, matches)
    for rule in rules:
        assignment = rule(outputs, targets, assignment)
    return assignment


def test_the_target_of_an_own_match_is_its_overlap():
    targets = PaddedTargets.of(objects_of(4, 2, dtype=torch.float64))
    outputs = near_objects(targets)
    given = assigned(outputs, targets, OwnStageLabels(), OverlapTargets())
    plain = assigned(outputs, targets, OwnStageLabels())
    assert (given.labels > 0).equal(plain.labels)
    for stage, image, query in (given.matches >= 0).nonzero().tolist():
        t = given.matches[stage, image, query]
        iou = box_iou(
            cxcywh_to_xyxy(outputs.boxes[stage, image, query]), cxcywh_to_xyxy(targets.boxes[image, t]), eps=0.0
        )
        found = given.labels[stage, image, query, targets.labels[image, t]]
        assert found.item() == pytest.approx(iou.item(), abs=1e-12)
    assert not given.labels.requires_grad


def test_over_stages_the_largest_overlap_counts_of_those_that_give_the_class():
    """Two objects of one class: the window decides which of them a target may be the overlap with."""
    boxes = torch.tensor([[0.3, 0.5, 0.2, 0.2], [0.34, 0.5, 0.2, 0.2]], dtype=torch.float64)
    targets = PaddedTargets.of([Target(torch.tensor([2, 2]), boxes)])
    matches = torch.tensor([[[0]], [[1]], [[1]]])
    outputs = StageOutputs(torch.zeros(3, 1, 1, 4, dtype=torch.float64), boxes[0].expand(3, 1, 1, 4))
    start = Assignment(QueryGroup("matching", 1), matches, matches)

    def target_of_last_stage(**window) -> float:
        rule = CrossStageLabels(iou_threshold=0.1, **window)
        return OverlapTargets()(outputs, targets, rule(outputs, targets, start)).labels[2, 0, 0, 2].item()

    assert target_of_last_stage(look_back=1) == pytest.approx(0.16 / 0.24)  # the objects of stages 1 and 2
    assert target_of_last_stage(look_back=None) == pytest.approx(1.0)  # stage 0 had the other object


def test_a_positive_that_misses_its_object_stays_positive():
    targets = PaddedTargets.of([Target(torch.tensor([1]), torch.tensor([[0.2, 0.2, 0.1, 0.1]]))])
    outputs = StageOutputs(torch.zeros(1, 1, 1, 3), torch.tensor([[[[0.8, 0.8, 0.1, 0.1]]]]))
    labels = assigned(outputs, targets, OwnStageLabels(), OverlapTargets()).labels
    assert 0 < labels[0, 0, 0, 1] < 1e-30
    assert labels.count_nonzero() == 1


@pytest.mark.parametrize("first", [OwnStageLabels, CrossStageLabels])
def test_labels_of_classes_that_no_match_gives_stay(first):
    """Another rule's soft negatives; they once became tiny positives."""
    targets = PaddedTargets.of(objects_of(4, 0, dtype=torch.float64))
    outputs = near_objects(targets)

    def soft_negatives(outputs, targets, assignment):
        return replace(assignment, labels=torch.where(assignment.labels, 1.0, 0.25).double())

    plain = assigned(outputs, targets, first(), OverlapTargets()).labels
    softened = assigned(outputs, targets, first(), soft_negatives, OverlapTargets()).labels
    given = assigned(outputs, targets, first()).labels
    assert softened[given].equal(plain[given])
    assert (softened[~given] == 0.25).all()


def test_a_label_that_another_rule_took_away_does_not_come_back():
    targets = PaddedTargets.of(objects_of(4, 2, dtype=torch.float64))
    outputs = near_objects(targets)

    def without_class_1(outputs, targets, assignment):
        return replace(assignment, labels=assignment.labels & (torch.arange(8) != 1))

    targets.labels[0, 0] = 1
    labels = assigned(outputs, targets, OwnStageLabels(), without_class_1, OverlapTargets()).labels
    assert (labels[..., 1] == 0).all()


def test_overlap_targets_need_labels_to_change():
    with pytest.raises(ValueError, match="give a rule that sets them before it"):
        assigned(predictions(1, 1, 3), PaddedTargets.of(objects_of(2)), OverlapTargets())


def test_a_rule_of_ones_own_may_return_numbers():
    """It used to die with "The size of tensor a must match the size of tensor b"."""

    class Halved(OwnStageLabels):
        def __call__(self, outputs, targets, assignment):
            assignment = super().__call__(outputs, targets, assignment)
            return replace(assignment, labels=assignment.labels * 0.5)

    targets = PaddedTargets.of(objects_of(3, 1))
    groups = [GroupOutputs(QueryGroup("matching", 7), predictions(2, 2, 7))]
    for loss in (FocalClassLoss(), VarifocalClassLoss(), QualityFocalClassLoss()):
        changes = {"labels": Halved(), "class_loss": loss, "normalizer": LabelCount()}
        losses = criterion({"matching": changes})(groups, targets)
        losses.total.backward()
        assert losses.total.isfinite()


def test_a_rule_that_sets_no_labels_is_named():
    class Nothing:
        def __call__(self, outputs, targets, assignment):
            return assignment

    groups = [GroupOutputs(QueryGroup("matching", 7), predictions(2, 2, 7))]
    with pytest.raises(ValueError, match="Nothing set no labels"):
        criterion(labels=Nothing())(groups, PaddedTargets.of(objects_of(3, 1)))


def reference(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The definitions, written out."""
    p, cost = logits.sigmoid(), F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return {
        "varifocal": torch.where(labels > 0, labels, 0.75 * p**2) * cost,
        "quality": (labels - p).abs() ** 2 * cost,
    }


def test_soft_losses_are_their_definitions():
    logits = torch.randn(2, 1, 3, 5, dtype=torch.float64)
    labels = torch.rand(2, 1, 3, 5, dtype=torch.float64) * (torch.rand(2, 1, 3, 5) < 0.4)
    expected = reference(logits, labels)
    for name, loss in (("varifocal", VarifocalClassLoss()), ("quality", QualityFocalClassLoss())):
        found = loss(logits, labels, normalizer=2 * ONE)
        torch.testing.assert_close(found, expected[name].flatten(1).sum(-1) / 2, rtol=0, atol=1e-12)


def test_no_gradient_flows_through_the_weights_of_varifocal():
    logits = torch.randn(1, 1, 4, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.zeros_like(logits)
    VarifocalClassLoss()(logits, labels, normalizer=ONE).backward()
    p = logits.detach().sigmoid()
    torch.testing.assert_close(logits.grad, 0.75 * p**2 * p, rtol=0, atol=1e-12)


@pytest.mark.parametrize("gamma", [2.0, 1.5])
def test_the_gradient_of_varifocal_is_that_of_its_definition(gamma):
    logits = 3 * torch.randn(2, 1, 3, 5, dtype=torch.float64).requires_grad_()
    labels = torch.rand(2, 1, 3, 5, dtype=torch.float64) * (torch.rand(2, 1, 3, 5) < 0.4)
    weights = torch.where(labels > 0, labels, 0.6 * logits.detach().sigmoid() ** gamma)
    cost = F.binary_cross_entropy_with_logits(logits, labels, weight=weights, reduction="none").flatten(1).sum(-1)
    scale = torch.tensor([1.0, 3.0], dtype=torch.float64)
    found = VarifocalClassLoss(alpha=0.4, gamma=gamma)(logits, labels, normalizer=ONE)
    ours, theirs = (torch.autograd.grad((scale * value).sum(), logits)[0] for value in (found, cost))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_varifocal_is_finite_for_certain_predictions():
    logits = torch.tensor([[[[200.0, -200.0, 30.0, -30.0]]]], requires_grad=True)
    for labels in (torch.zeros_like(logits), torch.ones_like(logits)):
        loss = VarifocalClassLoss()(logits, labels, normalizer=torch.tensor(1.0))
        loss.backward()
        assert loss.isfinite()
        assert logits.grad.isfinite().all()


def test_varifocal_of_hard_targets_without_gamma_is_weighted_cross_entropy():
    logits, labels = torch.randn(1, 1, 4, 3, dtype=torch.float64), torch.rand(1, 1, 4, 3) < 0.5
    found = VarifocalClassLoss(gamma=0.0)(logits, labels, normalizer=ONE)
    weights = torch.where(labels, 1.0, 0.75)
    cost = F.binary_cross_entropy_with_logits(logits, labels.double(), weight=weights, reduction="sum")
    torch.testing.assert_close(found, cost[None], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (-1.0, 1.5)])
def test_soft_focal_loss_of_hard_labels_is_the_focal_loss(alpha, gamma):
    logits, labels = torch.randn(2, 1, 4, 3, dtype=torch.float64), torch.rand(2, 1, 4, 3) < 0.5
    loss = FocalClassLoss(alpha=alpha, gamma=gamma)
    soft = loss(logits, labels.double(), normalizer=ONE)
    torch.testing.assert_close(soft, sigmoid_focal_loss(logits, labels, alpha=alpha, gamma=gamma), rtol=0, atol=1e-9)


def test_softmax_refuses_soft_labels():
    with pytest.raises(ValueError, match="SoftmaxClassLoss takes bool labels"):
        SoftmaxClassLoss()(torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 2, 3), normalizer=ONE)


def test_label_count_counts_cells_not_their_values():
    targets = PaddedTargets.of(objects_of(4, 2, dtype=torch.float64))
    outputs = near_objects(targets)
    rules = (CrossStageLabels(), OverlapTargets())
    hard, soft = (LabelCount()(targets, assigned(outputs, targets, *rules[:n])) for n in (1, 2))
    assert hard[0].equal(soft[0])
