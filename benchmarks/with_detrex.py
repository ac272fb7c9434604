"""detrex's own criterion, focal loss and attention as further baselines, by its public names, where it is installed.

Each function returns a callable without arguments, or None where detrex cannot be imported.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks import loops
from benchmarks.scenes import Scene


def _module(name: str) -> Any:
    """The module, or None. Its compiled operator may be missing or broken, which shows as any of these."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, AttributeError):
        return None


def criterion(scene: Scene) -> Callable[[], dict[str, Tensor]] | None:
    """SetCriterion with HungarianMatcher; losses weighted, by the names of `loops.criterion`."""
    modeling = _module("detrex.modeling")
    if modeling is None:
        return None
    matcher = modeling.HungarianMatcher(
        cost_class=loops.COSTS["class"],
        cost_bbox=loops.COSTS["bbox"],
        cost_giou=loops.COSTS["giou"],
        cost_class_type="focal_loss_cost",
        alpha=loops.ALPHA,
        gamma=loops.GAMMA,
    )
    theirs = modeling.SetCriterion(
        num_classes=scene.logits.shape[-1],
        matcher=matcher,
        weight_dict=loops.WEIGHTS,
        loss_class_type="focal_loss",
        alpha=loops.ALPHA,
        gamma=loops.GAMMA,
    )
    targets = [{"labels": target.labels, "boxes": target.boxes} for target in scene.targets]

    def losses() -> dict[str, Tensor]:
        stages = [
            {"pred_logits": logits, "pred_boxes": boxes}
            for logits, boxes in zip(scene.logits, scene.boxes, strict=True)
        ]
        named = theirs({**stages[-1], "aux_outputs": stages[:-1]}, targets)
        kinds = {name: "_".join(name.split("_")[:2]) for name in named}
        return {name: loops.WEIGHTS[kinds[name]] * loss for name, loss in named.items() if kinds[name] in loops.WEIGHTS}

    return losses


def focal_loss(logits: Tensor, labels: Tensor) -> Callable[[], Tensor] | None:
    """Its sigmoid focal loss, summed."""
    losses = _module("detrex.modeling.losses")
    if losses is None:
        return None
    return lambda: losses.sigmoid_focal_loss(logits, labels, alpha=loops.ALPHA, gamma=loops.GAMMA, reduction="sum")


def attention(
    values: Tensor, shapes: tuple[tuple[int, int], ...], *, locations: Tensor, weights: Tensor
) -> Callable[[], Tensor] | None:
    """Its attention in PyTorch (the compiled one is for CUDA alone)."""
    layers = _module("detrex.layers")
    if layers is None:
        return None
    sizes = torch.tensor(shapes)
    return lambda: layers.multi_scale_deformable_attn_pytorch(values, sizes, locations, weights)
