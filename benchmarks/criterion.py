"""Matching, labels and losses with their gradients: `SetCriterion` against the loop."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks import loops, with_detrex
from benchmarks.measure import Comparison, Setting, Target, interleaved, max_difference
from benchmarks.scenes import Scene, make_scene
from crossstage.config import get_config, instantiate
from crossstage.modeling.supervision.criterion import SetCriterion
from csla import with_csla

SHAPES = (((7, 900, 80), 3.5), ((6, 100, 80), 6.0))  # stages, queries, classes; the target


def run(setting: Setting) -> list[Comparison]:
    """Forward and backward, one-to-one and with CSLA, at DINO's and StageInteractor's shape."""
    rows = []
    for shape, target in SHAPES:
        scene = make_scene_of(shape, setting)
        for cross_stage in (False, True):
            rows += _compare(scene, setting, Target(at_least=target), cross_stage=cross_stage)
    return rows


def make_scene_of(shape: tuple[int, int, int], setting: Setting) -> Scene:
    """Two images with 20 objects each. shape: stages, queries, classes; `quick` takes fewer of all but the stages."""
    if setting.quick:
        return make_scene(shape[0], 60, 10, counts=(3, 5))
    return make_scene(*shape, counts=(20, 20))


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
        "ours": partial(criterion_terms, ours, scene),
    }
    if not cross_stage and (theirs := with_detrex.criterion(scene)) is not None:
        sides["detrex"] = theirs
    results = {name: _losses_and_gradients(side, scene) for name, side in sides.items()}
    times = interleaved({name: criterion_step(side, scene) for name, side in sides.items()}, setting.rounds)
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


def criterion_terms(criterion: SetCriterion, scene: Scene) -> dict[str, Tensor]:
    """The loss terms of the scene."""
    return dict(criterion(scene.groups, scene.padded).terms)


def criterion_step(side: Callable[[], dict[str, Tensor]], scene: Scene) -> Callable[[], None]:
    """What is timed: the loss terms and the gradients of their sum."""

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
