"""Matching: optimal, blind to order and to neighbours, one transfer, and loud about what is not finite."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor

from crossstage.errors import NonFiniteError
from crossstage.layers.boxes import BoxDistance
from crossstage.modeling.supervision.matching import (
    FocalClassCost,
    HungarianMatcher,
    MatchingProblem,
    MatchRequest,
    Pairs,
    SoftmaxClassCost,
    match_together,
    start_matching,
)
from crossstage.structures import PaddedTargets, StageOutputs, Target
from tests.random_scenes import objects_of, predictions


def match(outputs: StageOutputs, targets: PaddedTargets) -> Tensor:
    return HungarianMatcher()(outputs, targets)


def best_by_trying_all(cost: Tensor) -> float:
    """The least total of a [T, N] cost over every way to give the fewer of both a partner of their own."""
    cost = cost if cost.shape[0] <= cost.shape[1] else cost.T
    rows = range(cost.shape[0])
    ways = permutations(range(cost.shape[1]), len(rows))
    return min(sum(float(cost[t, n]) for t, n in zip(rows, chosen, strict=True)) for chosen in ways)


@pytest.mark.parametrize("counts", [(3, 1), (4, 4), (2, 0), (6, 5)])
@pytest.mark.parametrize("queries", [5, 3, 1])
def test_matches_are_the_cheapest_of_all(counts, queries):
    targets = PaddedTargets.of(objects_of(*counts))
    outputs = predictions(2, 2, queries)
    costs, matches = HungarianMatcher().cost(Pairs(outputs, targets)), match(outputs, targets)
    for stage in range(2):
        for image, count in enumerate(counts):
            found = matches[stage, image]
            chosen = found[found >= 0].tolist()
            assert len(set(chosen)) == len(chosen) == min(count, queries)
            assert all(0 <= index < count for index in chosen)
            total = sum(float(costs[stage, image, t, n]) for n, t in enumerate(found.tolist()) if t >= 0)
            assert total == pytest.approx(best_by_trying_all(costs[stage, image, :count]), abs=1e-5)


def test_the_cost_is_the_weighted_sum_of_the_papers_parts():
    targets, outputs = PaddedTargets.of(objects_of(3, dtype=torch.float64)), predictions(1, 1, 4, dtype=torch.float64)
    cost = HungarianMatcher(cost_class=2, cost_bbox=5, cost_giou=3).cost(Pairs(outputs, targets))
    for t in range(3):
        for n in range(4):
            p = outputs.logits[0, 0, n, targets.labels[0, t]].sigmoid()
            classes = -0.25 * (1 - p) ** 2 * (p + 1e-8).log() + 0.75 * p**2 * (1 - p + 1e-8).log()
            distance, giou = BoxDistance()(outputs.boxes[0, 0, n], targets.boxes[0, t])
            assert float(cost[0, 0, t, n]) == pytest.approx(float((2 * classes + 5 * distance - 3 * giou).detach()))


def test_costs_are_at_least_float32():
    targets, outputs = PaddedTargets.of(objects_of(3)), predictions(1, 1, 4)
    half = StageOutputs(outputs.logits.half(), outputs.boxes.half())
    assert HungarianMatcher().cost(Pairs(half, targets)).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert HungarianMatcher().cost(Pairs(outputs, targets)).dtype == torch.float32


def test_a_rule_of_copies_is_given_what_the_cost_has_computed():
    targets, outputs = PaddedTargets.of(objects_of(3, 3)), predictions(2, 2, 9)
    known = []

    def rule(pairs: Pairs) -> Tensor:
        known.append(dict(vars(pairs)))
        return targets.valid.long().expand(2, -1, -1)

    matches = HungarianMatcher(copies=rule)(outputs, targets)
    assert matches.equal(match(outputs, targets))
    assert [{"boxes", "probabilities"} <= set(found) for found in known] == [True]


def test_class_costs_look_at_the_objects_columns():
    logits, objects = torch.randn(2, 1, 4, 6), [Target(torch.tensor([5, 0, 5]), torch.rand(3, 4))]
    pairs = Pairs(StageOutputs(logits, torch.rand(2, 1, 4, 4)), PaddedTargets.of(objects))
    focal, softmax = FocalClassCost()(pairs), SoftmaxClassCost()(pairs)
    assert focal.shape == softmax.shape == (2, 1, 3, 4)
    torch.testing.assert_close(softmax[1, 0, 1], -logits[1, 0].softmax(-1)[:, 0])
    assert focal[:, :, 0].equal(focal[:, :, 2])
    assert focal[0, 0, 1].argmin() == logits[0, 0, :, 0].argmax()


def test_permuted_queries_give_permuted_matches():
    targets, outputs = PaddedTargets.of(objects_of(3, 5)), predictions(3, 2, 9)
    order = torch.randperm(9)
    permuted = StageOutputs(outputs.logits[:, :, order], outputs.boxes[:, :, order])
    assert match(permuted, targets).equal(match(outputs, targets)[:, :, order])


@pytest.mark.parametrize("counts", [(0, 20, 1), (3, 4, 4)], ids=["image by image", "one padded block"])
def test_an_image_is_matched_as_if_it_were_alone(counts):
    objects, outputs = objects_of(*counts), predictions(2, 3, 25)
    together = match(outputs, PaddedTargets.of(objects))
    for image in range(3):
        one = slice(image, image + 1)
        alone = match(StageOutputs(outputs.logits[:, one], outputs.boxes[:, one]), PaddedTargets.of(objects[one]))
        assert together[:, one].equal(alone)


def test_no_objects_at_all():
    assert match(predictions(3, 2, 4), PaddedTargets.of(objects_of(0, 0))).equal(torch.full((3, 2, 4), -1))


def test_no_queries_at_all():
    assert match(predictions(3, 2, 0), PaddedTargets.of(objects_of(2, 1))).shape == (3, 2, 0)


def test_several_sets_of_stages_are_matched_as_each_alone():
    targets = PaddedTargets.of(objects_of(2, 6))
    parts = [predictions(3, 2, 7), predictions(1, 2, 11)]
    requests = [MatchRequest(HungarianMatcher(), part, targets) for part in parts]
    for ours, part in zip(match_together(requests), parts, strict=True):
        assert ours.equal(match(part, targets))


@pytest.mark.parametrize("counts", [(3, 3), (1, 9), (0, 0)])
def test_one_device_to_host_copy_serves_all_stages_images_and_sets(transfers, counts):
    targets = PaddedTargets.of(objects_of(*counts))
    match_together([MatchRequest(HungarianMatcher(), predictions(stages, 2, 12), targets) for stages in (6, 1)])
    assert transfers == ["cpu"]


class Arrival:
    """As a CUDA event: the costs are in the host's memory only after somebody waited for it."""

    def __init__(self, host: Tensor) -> None:
        self.host, self.sent = host, host.clone()
        host.fill_(torch.nan)

    def synchronize(self) -> None:
        self.host.copy_(self.sent)


def test_the_costs_are_read_only_after_they_have_arrived():
    targets, outputs = PaddedTargets.of(objects_of(2, 6)), predictions(3, 2, 7)
    pending = start_matching([MatchRequest(HungarianMatcher(), outputs, targets)])
    (found,) = replace(pending, arrived=Arrival(pending.host)).finish()
    assert found.equal(match(outputs, targets))


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("field", "value"), [("logits", NAN), ("boxes", NAN), ("boxes", INFINITY), ("boxes", -INFINITY)]
)
@pytest.mark.parametrize("counts", [(2, 3), (1, 9)], ids=["one padded block", "image by image"])
def test_what_is_not_finite_is_named_by_stage_and_image(field, value, counts):
    outputs, targets = predictions(3, 2, 10), PaddedTargets.of(objects_of(*counts))
    with torch.no_grad():
        getattr(outputs, field)[2, 1, 4] = value
    with pytest.raises(NonFiniteError, match="stage 2, image 1 of the batch is not finite"):
        match(outputs, targets)


@pytest.mark.parametrize("value", [NAN, INFINITY, -INFINITY])
def test_the_solver_refuses_a_cost_that_is_not_finite_but_not_padding_that_is_not(value):
    costs, matches = np.zeros((2, 2, 3, 4)), np.full((2, 2, 4), -1)
    costs[1, 1, 2, 0] = value

    def assign(counts: tuple[int, ...], images: slice) -> None:
        problem = MatchingProblem(images, torch.from_numpy(costs), None, counts)
        HungarianMatcher().assign(costs, problem, copies=None, out=matches)

    assign((3, 2), slice(0, 2))  # image 1 has two objects: its third row is padding
    with pytest.raises(NonFiniteError, match="stage 1, image 6 of the batch"):
        assign((3, 3), slice(5, 7))


@pytest.mark.parametrize("value", [200.0, -200.0, INFINITY, -INFINITY])
def test_a_certain_class_is_no_error(value):
    """A probability of exactly 0 or 1 has a finite cost, whatever logit it came from."""
    outputs = predictions(1, 1, 4)
    with torch.no_grad():
        outputs.logits[0, 0, 2] = value
    assert (match(outputs, PaddedTargets.of(objects_of(3))) >= 0).sum() == 3


def test_an_object_that_is_not_finite_is_named_too():
    outputs = predictions(1, 2, 4)
    bad = Target(torch.tensor([1]), torch.tensor([[0.5, 0.5, float("nan"), 0.1]]))
    with pytest.raises(ValueError, match=r"stage 0, image 1 .* or its targets, hold a NaN"):
        match(outputs, PaddedTargets.of([*objects_of(1), bad]))


def test_a_nan_in_an_image_without_objects_costs_nothing():
    outputs = predictions(1, 2, 4)
    with torch.no_grad():
        outputs.boxes[0, 0] = float("nan")
    assert (match(outputs, PaddedTargets.of(objects_of(0, 2)))[0, 0] == -1).all()


def test_matching_takes_no_gradient_and_changes_nothing():
    targets, outputs = PaddedTargets.of(objects_of(2, 3)), predictions(2, 2, 5)
    before = outputs.logits.clone(), outputs.boxes.clone(), targets.boxes.clone()
    assert not HungarianMatcher().cost(Pairs(outputs, targets)).requires_grad
    match(outputs, targets)
    for old, new in zip(before, (outputs.logits, outputs.boxes, targets.boxes), strict=True):
        assert old.equal(new)
