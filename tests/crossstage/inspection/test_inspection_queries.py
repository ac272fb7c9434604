"""What is counted of a batch whose assignment is known."""

import pytest
import torch

from crossstage.inspection.queries import Comparison, QueryTally
from crossstage.inspection.stages import EveryStage
from crossstage.modeling.supervision.labels import OwnStageLabels
from crossstage.structures import Assignment, PaddedTargets, Queries, QueryGroup, StageOutputs

GROUP = QueryGroup("matching", 4)
TARGETS = PaddedTargets(
    labels=torch.tensor([[1, 0], [1, 0]]),
    boxes=torch.full((2, 2, 4), 0.5),
    valid=torch.tensor([[True, True], [True, False]]),
    counts=(2, 1),
)
MATCHES = torch.tensor(
    [
        [[0, 1, -1, -1], [0, -1, -1, -1]],
        [[0, -1, 1, -1], [0, -1, -1, -1]],  # object 1 of the first image moves to query 2
        [[1, -1, 0, -1], [-1, -1, -1, 0]],  # all three move
    ]
)


def outputs(matches: torch.Tensor) -> StageOutputs:
    """Query 3 is active in both images with a score of .9, at the last stage alone."""
    logits = torch.full((*matches.shape, 2), -9.0)
    logits[-1, :, 3, 1] = 2.2
    return StageOutputs(logits, torch.full((*matches.shape, 4), 0.5), states=torch.ones(*matches.shape, 4))


def assignment(matches: torch.Tensor) -> Assignment:
    return OwnStageLabels()(outputs(matches), TARGETS, Assignment(GROUP, matches, box_matches=matches))


def test_a_tally_of_two_batches():
    tally = QueryTally()
    found = EveryStage(Queries(torch.eye(4)[None], torch.rand(1, 4, 4), (GROUP,)), outputs(MATCHES))
    for _ in range(2):
        tally.add(found, TARGETS, assignment(MATCHES))
    numbers = tally.numbers()
    assert (numbers["images"], numbers["objects"], numbers["stages"]) == (4, 6, [1, 2, 3])
    assert numbers["matches"].tolist() == [2, 0, 2, 2] and numbers["match_gini"] == pytest.approx(0.25)
    assert numbers["activations"].tolist() == [[0, 0, 0, 4]] * 12
    assert numbers["activation_gini"] == [pytest.approx(0.75)] * 12
    assert numbers["activation_top_share"] == [1] * 12
    assert max(numbers["activation_gini_shuffled"]) < 0.75
    assert numbers["positives_per_object"] == [1, 1, 1]
    assert numbers["query_changes"] == [pytest.approx(1 / 3), 1]
    assert numbers["mean_cosine"] == {"content": pytest.approx(0, abs=1e-6), "last_stage": pytest.approx(1)}


def test_checkpoints_are_compared_from_the_last_stage_and_may_have_other_numbers_of_queries():
    fewer = MATCHES[1:, :, :3]  # without query 3, so that the object of the second image has none at the last stage
    comparison = Comparison()
    comparison.add(TARGETS, assignment(MATCHES), Assignment(QueryGroup("matching", 3), fewer, box_matches=fewer))
    assert (comparison.changed, comparison.objects) == ([0, 1], 3)
