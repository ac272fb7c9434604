"""Losses against their textbook forms, values and gradients, and at the borders of what floats can hold."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from crossstage.layers.boxes import BoxDistance
from crossstage.modeling.supervision.losses import FocalClassLoss, SoftmaxClassLoss, box_losses, sigmoid_focal_loss
from crossstage.structures import PaddedTargets
from tests.random_scenes import objects_of, predictions


def textbook_focal(logits: Tensor, labels: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """RetinaNet, eq. 5, as it is written there; autograd differentiates it."""
    targets = labels.to(logits.dtype)
    probability = logits.sigmoid()
    right = probability * targets + (1 - probability) * (1 - targets)
    weight = 1.0 if alpha < 0 else alpha * targets + (1 - alpha) * (1 - targets)
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (weight * (1 - right) ** gamma * entropy).flatten(1).sum(-1)


@pytest.mark.parametrize("alpha", [0.25, 0.6, -1])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 3.0])
def test_focal_loss_is_the_textbooks(alpha, gamma):
    logits = (torch.randn(3, 2, 5, 4, dtype=torch.float64) * 3).requires_grad_()
    labels = torch.rand(3, 2, 5, 4) < 0.3
    seen = torch.randn(3, dtype=torch.float64)
    ours, theirs = (loss(logits, labels, alpha=alpha, gamma=gamma) for loss in (sigmoid_focal_loss, textbook_focal))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad(loss, logits, seen)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("logit", [200.0, -200.0])
@pytest.mark.parametrize("label", [True, False])
@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_focal_loss_of_extreme_logits_is_finite(dtype, logit, label, gamma):
    logits = torch.full((1, 1), logit, dtype=dtype, requires_grad=True)
    loss = sigmoid_focal_loss(logits, torch.tensor([[label]]), gamma=gamma)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert logits.grad.isfinite().all()
    if (logit > 0) == label:
        assert loss.item() == 0
    else:  # confidently wrong: large, and pushed back
        assert loss.item() > 20
        assert logits.grad.item() * logit >= 0


def test_focal_loss_sums_each_stage_alone_and_takes_no_labels_as_background():
    logits, labels = torch.randn(3, 4, 5), torch.zeros(3, 4, 5, dtype=torch.bool)
    per_stage = sigmoid_focal_loss(logits, labels)
    assert per_stage.shape == (3,)
    torch.testing.assert_close(sigmoid_focal_loss(logits[1:2], labels[1:2])[0], per_stage[1])
    assert sigmoid_focal_loss(logits[:, :0], labels[:, :0]).tolist() == [0, 0, 0]


def test_focal_loss_leaves_its_inputs_as_they_were():
    logits = torch.randn(2, 5, requires_grad=True)
    before = logits.detach().clone()
    sigmoid_focal_loss(logits, torch.rand(2, 5) < 0.5).sum().backward()
    assert logits.detach().equal(before)


def test_focal_class_loss_divides_by_one_number_or_one_a_stage():
    logits, labels = torch.randn(2, 1, 3, 4), torch.rand(2, 1, 3, 4) < 0.3
    total = sigmoid_focal_loss(logits, labels, alpha=0.4, gamma=1.0)
    loss = FocalClassLoss(alpha=0.4, gamma=1.0)
    torch.testing.assert_close(loss(logits, labels, normalizer=torch.tensor(4.0)), total / 4)
    divisors = torch.tensor([2.0, 5.0])
    torch.testing.assert_close(loss(logits, labels, normalizer=divisors), total / divisors)


def test_softmax_loss_is_the_weighted_mean_of_detr():
    logits = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    labels = torch.zeros(2, 3, 4, 6, dtype=torch.bool)
    labels[0, 0, 1, 2] = labels[0, 2, 3, 0] = labels[1, 1, 0, 4] = True
    weights = torch.tensor([1.0] * 5 + [0.1], dtype=torch.float64)
    for stage in range(2):
        classes = torch.where(labels[stage].any(-1), labels[stage].int().argmax(-1), 5)
        expected = F.cross_entropy(logits[stage].flatten(0, 1), classes.flatten(), weight=weights)
        ours = SoftmaxClassLoss()(logits, labels, normalizer=torch.tensor(7.0))[stage]
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


def scene() -> tuple[Tensor, PaddedTargets, Tensor]:
    """Boxes of 2 stages, 2 images with 3 and 1 objects, 4 queries; hand-made matches."""
    boxes = predictions(2, 2, 4, dtype=torch.float64).boxes
    targets = PaddedTargets.of(objects_of(3, 1, dtype=torch.float64))
    matches = torch.tensor([[[1, -1, 0, 2], [-1, -1, 0, -1]], [[2, 0, 1, -1], [0, -1, -1, -1]]])
    return boxes, targets, matches


@pytest.mark.parametrize("distance", [BoxDistance(), BoxDistance(corners=True, eps=1e-9)])
def test_box_losses_sum_over_matched_pairs(distance):
    boxes, targets, matches = scene()
    l1, giou = box_losses(boxes, targets, matches, box_distance=distance)
    for stage in range(2):
        pairs = [
            distance(boxes[stage, image, query], targets.boxes[image, matches[stage, image, query]])
            for image in range(2)
            for query in range(4)
            if matches[stage, image, query] >= 0
        ]
        torch.testing.assert_close(l1[stage], sum(pair[0] for pair in pairs), rtol=0, atol=1e-12)
        torch.testing.assert_close(giou[stage], sum(1 - pair[1] for pair in pairs), rtol=0, atol=1e-12)


def test_unmatched_queries_get_no_box_gradient_and_matched_ones_do():
    boxes, targets, matches = scene()
    sum(loss.sum() for loss in box_losses(boxes, targets, matches, box_distance=BoxDistance())).backward()
    assert (boxes.grad != 0).any(-1).equal(matches >= 0)


def test_an_unmatched_box_may_be_anything():
    """What a query without an object predicts, a NaN included, is no part of the box losses."""
    boxes, targets, matches = scene()
    spoilt = boxes.detach().masked_fill((matches < 0)[..., None], float("nan")).requires_grad_()
    ours = box_losses(spoilt, targets, matches, box_distance=BoxDistance())
    for loss, expected in zip(ours, box_losses(boxes, targets, matches, box_distance=BoxDistance()), strict=True):
        torch.testing.assert_close(loss, expected)
    sum(loss.sum() for loss in ours).backward()
    assert spoilt.grad.isfinite().all()


@pytest.mark.parametrize("counts", [(0, 0), (2, 0)])
def test_no_matches_give_zero_with_a_graph(counts):
    outputs = predictions(2, 2, 4)
    losses = box_losses(
        outputs.boxes, PaddedTargets.of(objects_of(*counts)), torch.full((2, 2, 4), -1), box_distance=BoxDistance()
    )
    assert [loss.tolist() for loss in losses] == [[0, 0], [0, 0]]
    sum(loss.sum() for loss in losses).backward()  # every rank of a run must have a gradient to reduce
    assert outputs.boxes.grad.count_nonzero() == 0
