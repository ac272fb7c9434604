"""The matcher alone: costs, the copy to the host, and the solver."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks import loops
from benchmarks.measure import Comparison, Setting, Target, interleaved, max_difference
from benchmarks.scenes import Scene, make_scene
from crossstage.modeling.supervision.matching import HungarianMatcher

SHAPES = (((7, 900, 80), (20, 20)), ((7, 900, 80), (3, 60)), ((6, 100, 80), (20, 20)))


def run(setting: Setting) -> list[Comparison]:
    """Even and uneven numbers of objects at DINO's shape, and StageInteractor's shape. The issue sets no target."""
    rows = []
    for shape, counts in SHAPES:
        if setting.quick:
            shape, counts = (shape[0], 60, 10), (2, counts[1] // 4)
        rows.append(_compare(make_scene(*shape, counts=counts), setting))
    return rows


def _compare(scene: Scene, setting: Setting) -> Comparison:
    matcher, targets, (group,) = HungarianMatcher(), scene.padded, scene.groups
    times = interleaved(
        {
            "loop": lambda: loops.match(scene.logits, scene.boxes, scene.targets),
            "ours": lambda: matcher(group.outputs, targets),
        },
        setting.rounds,
    )
    ours = matcher(group.outputs, targets)
    theirs = _as_tensor(loops.match(scene.logits, scene.boxes, scene.targets), like=ours)
    return Comparison(
        benchmark="matching",
        case=scene.shape,
        baseline="loop",
        theirs=times["loop"],
        ours=times["ours"],
        target=Target(),
        difference=max_difference(theirs, ours),
        tolerance=0.0,
    )


def _as_tensor(matches: list[list[loops.Pairs]], *, like: Tensor) -> Tensor:
    """int64 [S, B, N], -1 = none."""
    dense = torch.full_like(like, -1)
    for stage, of_stage in enumerate(matches):
        for image, (queries, objects) in enumerate(of_stage):
            dense[stage, image, queries] = objects
    return dense
