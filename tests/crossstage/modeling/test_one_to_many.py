"""The hybrid branch, and class-agnostic proposals: other targets for a group, the same losses for the rest."""

import pytest
import torch

from crossstage.modeling.supervision.criterion import SetCriterion
from crossstage.modeling.supervision.matching import HungarianMatcher
from crossstage.structures import GroupOutputs, PaddedTargets, QueryGroup, Target
from tests.random_scenes import objects_of, predictions

WEIGHTS = {"loss_class": 2.0, "loss_bbox": 5.0, "loss_giou": 2.0}
BRANCH = "{loss}{stage}_one2many"


def criterion(**weights: float) -> SetCriterion:
    return SetCriterion(matcher=HungarianMatcher(), weights=WEIGHTS | weights)


def branch(queries: int, repeats: int, *, stages: int = 2, batch: int = 2) -> GroupOutputs:
    group = QueryGroup("one_to_many", queries, BRANCH, repeats=repeats)
    return GroupOutputs(group, predictions(stages, batch, queries, dtype=torch.float64))


def repeated(targets: tuple[Target, ...], times: int) -> PaddedTargets:
    return PaddedTargets.of([Target(t.labels.repeat(times), t.boxes.repeat(times, 1)) for t in targets])


@pytest.mark.parametrize("counts", [(3, 1), (0, 2), (0, 0), (5, 5)])
def test_the_branch_costs_what_repeated_objects_cost_a_plain_group(counts):
    objects = objects_of(*counts, dtype=torch.float64)
    many = branch(13, 3)
    plain = GroupOutputs(QueryGroup("one_to_many", 13, BRANCH), many.outputs)
    losses = criterion()([many], PaddedTargets.of(objects))
    expected = criterion()([plain], repeated(objects, 3))
    assert set(losses) == {f"{kind}{stage}_one2many" for kind in WEIGHTS for stage in ("", "_0")}
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name], rtol=1e-12, atol=1e-12)


def test_each_object_gets_as_many_queries_as_it_is_repeated():
    targets = PaddedTargets.of(objects_of(3, 0, dtype=torch.float64))
    (matches,) = criterion().match([branch(14, 4)], targets)
    for stage in matches:
        found = stage[0][stage[0] >= 0]
        assert found.bincount(minlength=3).tolist() == [4, 4, 4]
        assert (stage[1] == -1).all()


def test_where_queries_are_scarce_each_has_an_object():
    (matches,) = criterion().match([branch(5, 4)], PaddedTargets.of(objects_of(3, 2, dtype=torch.float64)))
    assert (matches >= 0).all()


def test_lambda_is_a_weight_of_the_branchs_name():
    targets, many = PaddedTargets.of(objects_of(3, 1, dtype=torch.float64)), branch(13, 2)
    plain, half = criterion()([many], targets), criterion(loss_bbox_one2many=2.5)([many], targets)
    for name, loss in plain.items():
        torch.testing.assert_close(half[name], loss * (0.5 if "bbox" in name else 1.0))


def test_the_branch_and_the_matching_group_do_not_mix():
    targets = PaddedTargets.of(objects_of(3, 1, dtype=torch.float64))
    matching = GroupOutputs(QueryGroup("matching", 6), predictions(2, 2, 6, dtype=torch.float64))
    first = criterion()([matching, branch(13, 2)], targets)
    second = criterion()([matching, branch(13, 2)], targets)
    for name, loss in first.items():
        assert loss.equal(second[name]) != name.endswith("_one2many"), name


def test_class_agnostic_objects_are_all_of_class_0():
    objects = objects_of(3, 1, dtype=torch.float64)
    outputs = predictions(1, 2, 9, dtype=torch.float64)
    agnostic = GroupOutputs(QueryGroup("proposals", 9, "{loss}_enc", class_agnostic=True), outputs)
    plain = GroupOutputs(QueryGroup("proposals", 9, "{loss}_enc"), outputs)
    zeros = PaddedTargets.of([Target(torch.zeros_like(t.labels), t.boxes) for t in objects])
    targets = PaddedTargets.of(objects)
    losses, expected = criterion()([agnostic], targets), criterion()([plain], zeros)
    assert all(loss.equal(expected[name]) for name, loss in losses.items())
    assert targets.labels.any(), "the batch's own labels stay as they are"


def test_one_copy_to_the_host_serves_groups_with_targets_of_their_own(transfers):
    targets = PaddedTargets.of(objects_of(2, 2, dtype=torch.float64))
    proposals = GroupOutputs(
        QueryGroup("proposals", 9, "{loss}_enc", class_agnostic=True), predictions(1, 2, 9, dtype=torch.float64)
    )
    transfers.clear()
    criterion().match([branch(13, 3), proposals], targets)
    assert transfers == ["cpu"]


def test_stages_may_repeat_the_objects_differently():
    """Hybrid layer matching: one-to-many at early stages, one-to-one at the last (StageInteractor, Table 1)."""
    targets = PaddedTargets.of(objects_of(3, 1, dtype=torch.float64))
    group = QueryGroup("matching", 13, repeats=(4, 1))
    predicted = GroupOutputs(group, predictions(3, 2, 13, dtype=torch.float64))
    (matches,) = criterion().match([predicted], targets)
    assert (matches >= 0).sum(-1).tolist() == [[12, 4], [3, 1], [3, 1]]
    hybrid = criterion()([predicted], targets)
    for repeats, stage in ((4, "_0"), (1, "_1"), (1, "")):
        alone = criterion()([GroupOutputs(QueryGroup("matching", 13, repeats=repeats), predicted.outputs)], targets)
        for kind in WEIGHTS:
            torch.testing.assert_close(hybrid[kind + stage], alone[kind + stage])
