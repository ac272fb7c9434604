"""The class targets that are drawn are those that are taught."""

import json
from pathlib import Path

import pytest
import torch

from crossstage.inspection import figures
from crossstage.inspection.assignment import (
    COPY,
    MATCH,
    OTHER,
    OTHER_STAGE,
    draw_assignment,
    positives_of,
    write_assignment,
)
from crossstage.inspection.pictures import picture_of
from crossstage.inspection.stages import EveryStage
from crossstage.modeling.supervision.labels import OverlapTargets, OwnStageLabels
from crossstage.structures import Assignment, PaddedTargets, Queries, QueryGroup, StageOutputs
from csla import CrossStageLabels
from tests.random_scenes import boxes_inside, image_batch


def scene(*, stages: int = 3, queries: int = 9, counts: tuple[int, ...] = (4, 2), copies: int = 2):
    """Objects, predictions near them, and random matches: every object has some queries at every stage."""
    batch = image_batch(*counts)
    targets = PaddedTargets.of(batch.targets)
    matches = torch.full((stages, len(counts), queries), -1)
    boxes = boxes_inside(stages, len(counts), queries)
    for stage in range(stages):
        for image, count in enumerate(counts):
            chosen = torch.randperm(queries)[: count * copies]
            matches[stage, image, chosen] = torch.arange(count).repeat(copies)[: len(chosen)]
            boxes[:, image, chosen] = targets.boxes[image, matches[stage, image, chosen]]
    boxes[..., 2:] *= 0.9  # IoU 0.81
    outputs = StageOutputs(torch.randn(stages, len(counts), queries, 8), boxes)
    entered = Queries(torch.zeros(len(counts), queries, 16), boxes[0], (QueryGroup("matching", queries),))
    assignment = Assignment(QueryGroup("matching", queries), matches, box_matches=matches)
    return batch, targets, EveryStage(entered, outputs), assignment


@pytest.mark.parametrize("rules", [(CrossStageLabels(),), (OwnStageLabels(),), (CrossStageLabels(), OverlapTargets())])
def test_as_many_positives_as_labels_are_found_and_drawn(rules, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(figures, "RESOLUTION", 40)
    batch, targets, found, assignment = scene()
    for rule in rules:
        assignment = rule(found.outputs, targets, assignment)
    for image in range(2):
        positives = positives_of(found.outputs, targets, assignment, image=image)
        labels = assignment.labels[:, image]
        assert len(positives) == int((labels > 0).sum())
        assert all(labels[one.stage, one.query, one.label] == pytest.approx(one.value) for one in positives)
        assert all(targets.labels[image, one.object] == one.label for one in positives)
    positives = positives_of(found.outputs, targets, assignment, image=0)
    assert {one.origin for one in positives} >= {MATCH, COPY}
    options = {"stages": [0, 1, 2], "class_names": [f"c{label}" for label in range(8)]}
    drawn = draw_assignment(picture_of(batch, 0), found, positives, targets, tmp_path / "drawn", **options)
    assert drawn == int((assignment.labels[:, 0] > 0).sum())
    if rules == (rules[0],) and isinstance(rules[0], CrossStageLabels):
        counts = write_assignment(batch, found, targets, assignment, tmp_path / "again", **{**options, "stages": [1]})
        record = json.loads((tmp_path / "again.json").read_text())
        assert len(record["positives"]) == sum(counts.values()) == int(assignment.labels[1, 0].sum())
        assert {one["stage"] for one in record["positives"]} == {2}  # counted from 1, as in the figure


def test_each_positive_says_how_the_query_got_it():
    """Two stages, one object, four queries; all boxes fit but that of query 3."""
    target = torch.tensor([[[0.5, 0.5, 0.4, 0.4]]])
    targets = PaddedTargets(torch.tensor([[2]]), target, torch.tensor([[True]]), (1,))
    boxes = target.expand(2, 1, 4, 4).clone()
    boxes[:, :, 1, 2:] = 0.35  # a worse fit than query 0
    boxes[:, :, 3] = 0.1
    matches = torch.tensor([[[0, 0, -1, 0]], [[0, -1, 0, -1]]])
    outputs = StageOutputs(torch.zeros(2, 1, 4, 8), boxes)
    group = QueryGroup("matching", 4)
    assignment = CrossStageLabels()(outputs, targets, Assignment(group, matches, box_matches=matches))
    found = positives_of(outputs, targets, assignment, image=0)
    expected = {(0, 0): MATCH, (0, 1): COPY, (0, 2): OTHER_STAGE}
    expected |= {(1, 0): MATCH, (1, 1): OTHER_STAGE, (1, 2): COPY}
    assert {(one.stage, one.query): one.origin for one in found} == expected
    assert next(one for one in found if one.query == 1).overlap == pytest.approx((0.35 / 0.4) ** 2, abs=1e-4)
    labels = assignment.labels.clone()
    labels[0, 0, 3, 5] = True  # of no object: a rule of the user's own
    other = positives_of(
        outputs, targets, Assignment(group, matches, matches, labels, assignment.label_stages), image=0
    )
    assert [(one.query, one.label, one.object, one.origin) for one in other if one not in found] == [(3, 5, -1, OTHER)]
