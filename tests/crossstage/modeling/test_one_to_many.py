"""The hybrid branch, and class-agnostic proposals: other targets for a group, the same losses for the rest."""

import pytest
import torch

from crossstage.modeling.supervision.criterion import SetCriterion
from crossstage.modeling.supervision.matching import HungarianMatcher, Pairs
from crossstage.modeling.supervision.normalizers import ObjectCount
from crossstage.structures import GroupOutputs, PaddedTargets, QueryGroup, Target
from tests.random_scenes import objects_of, predictions
from tests.supervisions import NAMES, WEIGHTS, supervision


def criterion(copies=1, *, group: str = "one_to_many", **changes) -> SetCriterion:
    """One group whose objects get `copies` queries each, and the matching group."""
    counted = 1 if callable(copies) else copies
    many = {"matcher": HungarianMatcher(copies=copies), "normalizer": ObjectCount(copies=counted), **changes}
    others = {"matching": supervision()} if group != "matching" else {}
    return SetCriterion(groups={**others, group: supervision(names=NAMES[group], **many)})


def branch(queries: int, *, stages: int = 2, batch: int = 2) -> GroupOutputs:
    return GroupOutputs(QueryGroup("one_to_many", queries), predictions(stages, batch, queries, dtype=torch.float64))


def repeated(targets: tuple[Target, ...], times: int) -> PaddedTargets:
    return PaddedTargets.of([Target(t.labels.repeat(times), t.boxes.repeat(times, 1)) for t in targets])


@pytest.mark.parametrize("counts", [(3, 1), (0, 2), (0, 0), (5, 5)])
def test_the_branch_costs_what_repeated_objects_cost_a_plain_group(counts):
    objects = objects_of(*counts, dtype=torch.float64)
    many = branch(13)
    losses = criterion(3)([many], PaddedTargets.of(objects)).terms
    expected = criterion(1)([many], repeated(objects, 3)).terms
    assert set(losses) == {f"loss_{kind}{stage}_one2many" for kind in WEIGHTS for stage in ("", "_0")}
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name], rtol=1e-12, atol=1e-12)


def test_each_object_gets_as_many_queries_as_it_is_repeated():
    targets = PaddedTargets.of(objects_of(3, 0, dtype=torch.float64))
    (matches,) = criterion(4).match([branch(14)], targets)
    for stage in matches:
        found = stage[0][stage[0] >= 0]
        assert found.bincount(minlength=3).tolist() == [4, 4, 4]
        assert (stage[1] == -1).all()


def test_where_queries_are_scarce_each_has_an_object():
    (matches,) = criterion(4).match([branch(5)], PaddedTargets.of(objects_of(3, 2, dtype=torch.float64)))
    assert (matches >= 0).all()


def test_lambda_is_a_weight_of_the_branch():
    targets, many = PaddedTargets.of(objects_of(3, 1, dtype=torch.float64)), branch(13)
    plain = criterion(2)([many], targets).terms
    half = criterion(2, weights={**WEIGHTS, "bbox": 2.5})([many], targets).terms
    for name, loss in plain.items():
        torch.testing.assert_close(half[name], loss * (0.5 if "bbox" in name else 1.0))


def test_the_branch_and_the_matching_group_do_not_mix():
    targets = PaddedTargets.of(objects_of(3, 1, dtype=torch.float64))
    matching = GroupOutputs(QueryGroup("matching", 6), predictions(2, 2, 6, dtype=torch.float64))
    first = criterion(2)([matching, branch(13)], targets).terms
    second = criterion(2)([matching, branch(13)], targets).terms
    for name, loss in first.items():
        assert loss.equal(second[name]) != name.endswith("_one2many"), name


def test_class_agnostic_objects_are_all_of_class_0():
    objects = objects_of(3, 1, dtype=torch.float64)
    outputs = predictions(1, 2, 9, dtype=torch.float64)
    proposals = GroupOutputs(QueryGroup("proposals", 9), outputs)
    zeros = PaddedTargets.of([Target(torch.zeros_like(t.labels), t.boxes) for t in objects])
    targets = PaddedTargets.of(objects)
    losses = criterion(group="proposals", class_agnostic=True)([proposals], targets).terms
    expected = criterion(group="proposals")([proposals], zeros).terms
    assert all(loss.equal(expected[name]) for name, loss in losses.items())
    assert targets.labels.any(), "the batch's own labels stay as they are"


def test_one_copy_to_the_host_serves_groups_with_targets_of_their_own(transfers):
    targets = PaddedTargets.of(objects_of(2, 2, dtype=torch.float64))
    matching = GroupOutputs(QueryGroup("matching", 9), predictions(1, 2, 9, dtype=torch.float64))
    transfers.clear()
    criterion(3, class_agnostic=True).match([branch(13), matching], targets)
    assert transfers == ["cpu"]


def test_stages_may_repeat_the_objects_differently():
    """Hybrid layer matching: one-to-many at early stages, one-to-one at the last (StageInteractor, Table 1)."""
    targets = PaddedTargets.of(objects_of(3, 1, dtype=torch.float64))
    predicted = GroupOutputs(QueryGroup("matching", 13), predictions(3, 2, 13, dtype=torch.float64))
    (matches,) = criterion((4, 1), group="matching").match([predicted], targets)
    assert (matches >= 0).sum(-1).tolist() == [[12, 4], [3, 1], [3, 1]]
    hybrid = criterion((4, 1), group="matching")([predicted], targets).terms
    for copies, stage in ((4, "_0"), (1, "_1"), (1, "")):
        alone = criterion(copies, group="matching")([predicted], targets).terms
        for kind in WEIGHTS:
            name = f"loss_{kind}{stage}"
            torch.testing.assert_close(hybrid[name], alone[name])


class LastImageTwice:
    """A rule: two queries for the first object of the last image, one for any other; none for objects of class 0."""

    def __call__(self, pairs: Pairs) -> torch.Tensor:
        copies = torch.ones_like(pairs.targets.labels)
        copies[-1, 0] = 2
        return copies.masked_fill(pairs.targets.labels == 0, 0).expand(pairs.outputs.num_stages, -1, -1)


def test_a_rule_decides_over_each_object_with_the_same_single_transfer(transfers):
    boxes = torch.full((3, 4), 0.5, dtype=torch.float64)
    targets = PaddedTargets.of([Target(torch.tensor([0, 2, 5]), boxes), Target(torch.tensor([3, 1, 0]), boxes)])
    transfers.clear()
    (matches,) = criterion(LastImageTwice()).match([branch(9)], targets)
    assert transfers == ["cpu"]
    for stage in matches:
        assert sorted(stage[0][stage[0] >= 0].tolist()) == [1, 2]
        assert sorted(stage[1][stage[1] >= 0].tolist()) == [0, 0, 1]
