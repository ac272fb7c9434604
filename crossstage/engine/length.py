"""The length and the periods of a run, in iterations or in epochs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

EPOCHS = {"max_epochs": "max_iter", "eval_epochs": "eval_period", "checkpointer.epochs": "checkpointer.period"}


def prefer_given_iterations(train: DictConfig, overrides: Sequence[str]) -> None:
    """Where an override gives iterations and none gives epochs, the epochs of the config file do not count."""
    given = {override.split("=")[0].lstrip("+") for override in overrides}
    for epochs, iterations in EPOCHS.items():
        if f"train.{iterations}" in given and f"train.{epochs}" not in given:
            OmegaConf.update(train, epochs, 0)


def settle_length(train: DictConfig, loader: Any) -> str:
    """Compute the iterations that are given in epochs, in place.

    Args:
        train: the config's train node.
        loader: the training loader, which has the number of images and the batch size.

    Returns:
        A line for the log, or "" if nothing is given in epochs.
    """
    if not any(OmegaConf.select(train, key) for key in EPOCHS):
        return ""
    images, batch = len(loader.dataset), loader.total_batch_size * train.accumulate
    for epochs, iterations in EPOCHS.items():
        if number := OmegaConf.select(train, epochs):
            OmegaConf.update(train, iterations, max(1, math.ceil(number * images / batch)))
    return (
        f"an epoch is {images / batch:.1f} iterations ({images} images, {batch} per iteration): train.max_iter="
        f"{train.max_iter}, train.eval_period={train.eval_period}, checkpoint every {train.checkpointer.period}"
    )
