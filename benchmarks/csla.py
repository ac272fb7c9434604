"""What CSLA adds to a step: the time of its labels beyond one-to-one labels, as a share of the whole criterion."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks import loops
from benchmarks.criterion import make_criterion
from benchmarks.measure import Comparison, Setting, Target, interleaved, max_difference
from benchmarks.scenes import Scene, make_scene
from crossstage.modeling.supervision.labels import OwnStageLabels
from crossstage.modeling.supervision.matching import HungarianMatcher
from crossstage.structures import Assignment
from csla import CrossStageLabels

SHAPES = (((7, 900, 80), 0.05), ((6, 100, 80), 0.10))


def run(setting: Setting) -> list[Comparison]:
    """Two rows a shape: the share of the criterion, and the labels against loops over stages and images."""
    rows = []
    for shape, share in SHAPES:
        if setting.quick:
            shape = (shape[0], 60, 10)
        rows += _compare(
            make_scene(*shape, counts=(3, 5) if setting.quick else (20, 20)), setting, Target(at_most=share)
        )
    return rows


def _compare(scene: Scene, setting: Setting, target: Target) -> list[Comparison]:
    targets, (group,) = scene.padded, scene.groups
    matches = HungarianMatcher()(group.outputs, targets)
    assignment = Assignment(group.group, matches, box_matches=matches)
    looped = loops.match(scene.logits, scene.boxes, scene.targets)
    criterion = make_criterion(cross_stage=False)
    own, cross = OwnStageLabels(), CrossStageLabels()

    def step() -> None:
        scene.clear()
        criterion(scene.groups, targets).total.backward()

    def loop_labels() -> list[Tensor]:
        return loops.cross_stage_labels(looped, scene.boxes, scene.logits, scene.targets)

    times = interleaved(
        {
            "own": lambda: own(group.outputs, targets, assignment),
            "cross": lambda: cross(group.outputs, targets, assignment),
            "loop": loop_labels,
            "criterion": step,
        },
        setting.rounds,
    )
    difference = max_difference(torch.stack(loop_labels()), cross(group.outputs, targets, assignment).labels)
    common = {"benchmark": "csla", "difference": difference, "tolerance": 0.0}
    return [
        Comparison(
            case=f"labels beyond one-to-one labels / criterion forward + backward, {scene.shape}",
            baseline="criterion, one-to-one",
            theirs=times["criterion"],
            ours=times["cross"] - times["own"],
            target=target,
            **common,
        ),
        Comparison(
            case=f"labels alone, {scene.shape}",
            baseline="loop",
            theirs=times["loop"],
            ours=times["cross"],
            target=Target(),
            **common,
        ),
    ]
