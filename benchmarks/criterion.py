"""Matching, labels and losses with their gradients: `SetCriterion` against the loop, and by quality against without."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from crossstage.projects.paq_detr.modeling.quality import QualityCopies
from crossstage.projects.paq_detr.quality_config import with_quality
from torch import Tensor

from benchmarks import loops, with_detrex
from benchmarks.measure import Comparison, Setting, Target, interleaved, max_difference
from benchmarks.scenes import Scene, make_scene
from crossstage.config import get_config, instantiate
from crossstage.modeling.supervision.criterion import SetCriterion
from csla import with_csla

SHAPES = (((7, 900, 80), 3.5), ((6, 100, 80), 6.0))  # stages, queries, classes; the target


def run(setting: Setting) -> list[Comparison]:
    """Forward and backward, one-to-one and with CSLA, at DINO's and StageInteractor's shape; by quality at DINO's."""
    rows = []
    for shape, target in SHAPES:
        if setting.quick:
            shape = (shape[0], 60, 10)
        scene = make_scene(*shape, counts=(3, 5) if setting.quick else (20, 20))
        for cross_stage in (False, True):
            rows += _compare(scene, setting, Target(at_least=target), cross_stage=cross_stage)
        if shape == SHAPES[0][0] or setting.quick:
            rows += _compare_quality(scene, setting)
    return rows


def make_criterion(*, cross_stage: bool) -> SetCriterion:
    """DINO's criterion, with one of the two label rules."""
    model = get_config("common/models/supervision.py")
    for name, weight in loops.WEIGHTS.items():
        model.criterion.groups.matching.weights[name.removeprefix("loss_")] = weight
    return instantiate((with_csla(model) if cross_stage else model).criterion)


def _compare(scene: Scene, setting: Setting, target: Target, *, cross_stage: bool) -> list[Comparison]:
    ours = make_criterion(cross_stage=cross_stage)
    sides: dict[str, Callable[[], dict[str, Tensor]]] = {
        "loop": lambda: loops.criterion(scene.logits, scene.boxes, scene.targets, cross_stage=cross_stage),
        "ours": partial(_terms, ours, scene),
    }
    if not cross_stage and (theirs := with_detrex.criterion(scene)) is not None:
        sides["detrex"] = theirs
    results = {name: _losses_and_gradients(side, scene) for name, side in sides.items()}
    times = interleaved({name: _step(side, scene) for name, side in sides.items()}, setting.rounds)
    case = f"forward + backward, {'CSLA' if cross_stage else 'one-to-one'}, {scene.shape}"
    return [
        Comparison(
            benchmark="criterion",
            case=case,
            baseline=name,
            theirs=times[name],
            ours=times["ours"],
            target=target if name == "loop" else Target(),
            difference=max_difference(results[name], results["ours"]),
            tolerance=5e-5,
        )
        for name in sides
        if name != "ours"
    ]


def _compare_quality(scene: Scene, setting: Setting) -> list[Comparison]:
    """PaQ-DETR's copies alone, and with its class targets and loss. Box losses of the plain last stage must agree."""
    plain, copies = (make_criterion(cross_stage=False) for _ in range(2))
    copies.groups["matching"].matcher.copies = QualityCopies()
    whole = instantiate(with_quality(get_config("common/models/supervision.py")).criterion)
    criteria = {"plain": plain, "copies": copies, "with_quality": whole}
    sides = {name: partial(_terms, criterion, scene) for name, criterion in criteria.items()}
    last = {name: torch.stack([side()[loss] for loss in ("loss_bbox", "loss_giou")]) for name, side in sides.items()}
    times = interleaved({name: _step(side, scene) for name, side in sides.items()}, setting.rounds)
    return [
        Comparison(
            benchmark="criterion",
            case=f"forward + backward, {name}, {scene.shape}",
            baseline="one-to-one",
            theirs=times["plain"],
            ours=times[name],
            target=Target(at_most=1.15),
            difference=max_difference(last["plain"], last[name]),
            tolerance=0.0,
        )
        for name in ("copies", "with_quality")
    ]


def _terms(criterion: SetCriterion, scene: Scene) -> dict[str, Tensor]:
    return dict(criterion(scene.groups, scene.padded).terms)


def _step(side: Callable[[], dict[str, Tensor]], scene: Scene) -> Callable[[], None]:
    def step() -> None:
        scene.clear()
        torch.stack(list(side().values())).sum().backward()

    return step


def _losses_and_gradients(side: Callable[[], dict[str, Tensor]], scene: Scene) -> Tensor:
    """Losses by name and all gradients, in one vector; all are of the order of 1 or below."""
    scene.clear()
    losses = side()
    values = torch.stack([losses[name] for name in sorted(losses)])
    values.sum().backward()
    return torch.cat([values.detach(), scene.logits.grad.flatten(), scene.boxes.grad.flatten()])
