"""What `csla.transformers` adds to the losses of Hugging Face transformers, forward and backward, at their usual sizes.

The stages' outputs are random leaves, without a model: the share of a training step is far smaller.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import Comparison, Setting, Target, interleaved, max_difference
from crossstage.torchvision_on_cpu import declare_missing_operators
from csla.transformers import CrossStageLoss

OWN_STAGE = {"look_back": 0, "look_ahead": 0, "iou_threshold": 0.0}


def run(setting: Setting) -> list[Comparison]:
    """One row for each of RT-DETR, Deformable-DETR and LW-DETR."""
    declare_missing_operators()  # transformers imports torchvision
    small = setting.quick
    sizes = {"queries": 20 if small else 300, "classes": 5 if small else 80, "objects": 3 if small else 20}
    batch = 1 if small else 4
    return [
        _compare("RT-DETR", rt_detr(batch=batch, **sizes), setting, Target(at_most=1.05)),
        _compare("Deformable-DETR", deformable_detr(batch=batch, **sizes), setting, Target(at_most=1.25)),
        _compare("LW-DETR, 13 groups", lw_detr(batch=min(batch, 2), **sizes), setting, Target(at_most=1.25)),
    ]


def rt_detr(*, batch: int, queries: int, classes: int, objects: int) -> dict[str, Any]:
    """The arguments of RT-DETR's loss function, with 100 pairs of denoising queries or fewer, and 6 stages."""
    from transformers import RTDetrConfig

    groups = 100 // objects
    noisy = 2 * groups * objects
    positive = torch.cat([torch.arange(objects) + 2 * objects * group for group in range(groups)])
    logits, boxes = _leaves(batch, 6, noisy + queries, classes)
    proposal_logits, proposal_boxes = _leaves(batch, queries, classes)
    return {
        **_common(RTDetrConfig(num_labels=classes), batch, classes, objects),
        "logits": logits[:, -1],
        "pred_boxes": boxes[:, -1],
        "outputs_class": logits,
        "outputs_coord": boxes,
        "enc_topk_logits": proposal_logits,
        "enc_topk_bboxes": proposal_boxes,
        "denoising_meta_values": {
            "dn_positive_idx": (positive,) * batch,
            "dn_num_group": groups,
            "dn_num_split": [noisy, queries],
        },
    }


def deformable_detr(*, batch: int, queries: int, classes: int, objects: int) -> dict[str, Any]:
    """The arguments of Deformable-DETR's loss function, 6 stages."""
    from transformers import DeformableDetrConfig

    logits, boxes = _leaves(6, batch, queries, classes)
    return {
        **_common(DeformableDetrConfig(num_labels=classes, auxiliary_loss=True), batch, classes, objects),
        "logits": logits[-1],
        "pred_boxes": boxes[-1],
        "outputs_class": logits,
        "outputs_coord": boxes,
    }


def lw_detr(*, batch: int, queries: int, classes: int, objects: int) -> dict[str, Any]:
    """The arguments of LW-DETR's loss function, 3 stages of 13 groups."""
    from transformers import LwDetrConfig

    config = LwDetrConfig(num_labels=classes)
    logits, boxes = _leaves(3, batch, queries * config.group_detr, classes)
    proposal_logits, proposal_boxes = _leaves(batch, queries * config.group_detr, classes)
    return {
        **_common(config, batch, classes, objects),
        "logits": logits[-1],
        "pred_boxes": boxes[-1],
        "outputs_class": logits,
        "outputs_coord": boxes,
        "enc_outputs_class": proposal_logits,
        "enc_outputs_coord": proposal_boxes,
    }


def _leaves(*shape: int) -> tuple[Tensor, Tensor]:
    """Logits of this shape, and boxes for them."""
    boxes = torch.rand(*shape[:-1], 4) * 0.4 + 0.2
    return torch.randn(shape).sub_(3).requires_grad_(), boxes.requires_grad_()


def _common(config: Any, batch: int, classes: int, objects: int) -> dict[str, Any]:
    labels = [
        {"class_labels": torch.randint(classes, (objects,)), "boxes": torch.rand(objects, 4) * 0.4 + 0.2}
        for _ in range(batch)
    ]
    return {"labels": labels, "device": torch.device("cpu"), "config": config}


def _loss_function(arguments: dict[str, Any]) -> Callable[..., Any]:
    from transformers.loss.loss_utils import LOSS_MAPPING

    return LOSS_MAPPING[type(arguments["config"]).__name__.replace("Config", "ForObjectDetection")]


def _compare(name: str, arguments: dict[str, Any], setting: Setting, target: Target) -> Comparison:
    plain = _loss_function(arguments)
    leaves = [value for value in arguments.values() if isinstance(value, Tensor) and value.is_leaf]

    def step(function: Callable[..., Any]) -> None:
        total = function(**arguments)[0]
        torch.autograd.grad(total, leaves, retain_graph=True)  # the last stage is a view of the leaves

    cross = CrossStageLoss(plain, {})
    times = interleaved({"plain": lambda: step(plain), "cross": lambda: step(cross)}, setting.rounds)
    expected, own = plain(**arguments)[1], CrossStageLoss(plain, OWN_STAGE)(**arguments)[1]
    return Comparison(
        benchmark="hugging_face",
        case=f"{name}, losses forward + backward, {tuple(arguments['outputs_class'].shape)}",
        baseline="transformers",
        theirs=times["plain"],
        ours=times["cross"],
        target=target,
        difference=max(max_difference(expected[term], own[term]) for term in expected),
        tolerance=1e-5,
    )
