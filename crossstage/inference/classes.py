"""Gives a config the classes of its weights, and reads the annotations of its test set where they exist."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from crossstage.checkpoints.load import class_names_of
from crossstage.config import instantiate
from crossstage.data.batch import Sample
from crossstage.data.coco import CocoDetection
from crossstage.data.own_data import settle_data
from crossstage.errors import InputError


class Truth:
    """The annotations of a test dataset; empty without a dataset."""

    def __init__(self, dataset: Any = None) -> None:
        self.dataset = dataset
        self._indices: dict[str, int] = {}
        if isinstance(dataset, CocoDetection):
            self._indices = {os.path.realpath(dataset.path(index)): index for index in range(len(dataset))}

    @property
    def class_names(self) -> list[str]:
        """The class names of the dataset, or an empty list."""
        return list(getattr(self.dataset, "class_names", ()))

    @property
    def category_ids(self) -> list[int | None]:
        """The category ids of the classes, or an empty list."""
        return list(getattr(self.dataset, "category_ids", ()))

    def of(self, file: Path) -> Sample | None:
        """The image with its boxes, or None if the dataset does not contain it. Raises InputError if it is wrong."""
        index = self._indices.get(os.path.realpath(file))
        return None if index is None or self.dataset is None else self.dataset[index]


def settle_classes(cfg: DictConfig, weights: str | Path, *, asked: Sequence[str], problems: list[str]) -> Truth:
    """Give the config the classes of the weights, and read the annotations of its test dataset if they exist.

    Args:
        cfg: the config, changed in place.
        weights: the file of the weights.
        asked: the overrides of the user, see `settle_data`.
        problems: gets a message for annotations that are wrong and therefore left out.

    Returns:
        The annotations.
    """
    names = class_names_of(weights)
    try:
        settle_data(cfg, class_names=names, asked=asked)
    except InputError as error:
        problems.append(str(error))
        if names:
            OmegaConf.update(cfg, "dataloader.data", None, force_add=True)
            settle_data(cfg, class_names=names, asked=asked)
        return Truth()
    node: Any = OmegaConf.select(cfg, "dataloader.test.dataset") or {}
    file, folder = (os.path.expanduser(str(node.get(key, ""))) for key in ("json_file", "image_root"))
    if not (os.path.isfile(file) and os.path.isdir(folder)):
        return Truth()
    try:
        return Truth(instantiate(node))
    except InputError:
        node = node.copy()
        node.classes = None  # other classes than the weights': shown with their own names
    try:
        return Truth(instantiate(node))
    except InputError as error:
        problems.append(str(error))
        return Truth()
