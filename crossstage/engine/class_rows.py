"""Fits the class heads of initial weights to the classes of a training, by the names of the classes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from crossstage.checkpoints.classes import class_axes, rows_by_name
from crossstage.config import instantiate
from crossstage.data.classes import in_spelling_of

logger = logging.getLogger("crossstage.engine")


def with_rows_of_classes(
    state: Mapping[str, Tensor],
    checkpoint: Mapping[str, Any],
    *,
    node: DictConfig,
    model: nn.Module,
    class_names: Sequence[str],
) -> dict[str, Tensor]:
    """Give each class of the training the rows that the checkpoint has for the class of this name.

    Args:
        state: the weights, by our names.
        checkpoint: the whole checkpoint; it is used as it is if it has no "class_names".
        node: the config node of the model.
        model: the model that the weights are for; classes that the checkpoint lacks keep its initialisation.
        class_names: the classes of the training, by class index.

    Returns:
        The weights; unchanged if the classes are the same, or if those of the checkpoint are unknown. The log says what
        was changed.
    """
    ours = list(class_names)
    theirs = in_spelling_of(ours, [str(name) for name in checkpoint.get("class_names") or ()])
    if not theirs or not ours or theirs == ours or OmegaConf.select(node, "num_classes") is None:
        return dict(state)
    shared = [name for name in ours if name in theirs]
    axes = class_axes(_shapes(model_on_meta(node)), _shapes(model_on_meta(node, more_classes=1)))
    if len(set(theirs)) < len(theirs) or len(set(ours)) < len(ours):
        logger.warning("the checkpoint's classes are not matched by name, because some have the same name")
        return dict(state)
    fitted = rows_by_name(state, model.state_dict(), axes, theirs=theirs, ours=ours)
    others = [name for name in ours if name not in theirs]
    logger.info(
        "the checkpoint has other classes, or another order: %d of %d classes have its weights, by name%s",
        len(shared), len(ours), f"; {', '.join(others[:6])} keep their initialisation" if others else "",
    )  # fmt: skip
    return fitted


def model_on_meta(node: DictConfig, *, more_classes: int = 0) -> nn.Module:
    """Build a model on the meta device, without pretrained weights and with a number of additional classes."""
    node = node.copy()
    if OmegaConf.select(node, "backbone.pretrained"):
        node.backbone.pretrained = False
    if more_classes:
        node.num_classes += more_classes
    with torch.device("meta"):
        return instantiate(node)


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
