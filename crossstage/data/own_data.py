"""Settles what a config leaves to the data: the files of `dataloader.data`, the classes, and their number."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from crossstage.data.classes import some
from crossstage.data.coco_json import read_class_names
from crossstage.data.layouts import find_splits
from crossstage.errors import InputError, near_names

logger = logging.getLogger("crossstage.data")


def settle_data(cfg: DictConfig, *, class_names: Sequence[str] = (), asked: Sequence[str] = ()) -> None:
    """Write what the data decide into a config, in place.

    `dataloader.data` becomes the files of the training set and the test set. All data sets and the evaluator get the
    class names, to which they match theirs. `model.num_classes` becomes their number if `dataloader.data` or the
    weights decide the classes. Names in `model.postprocess.classes` become class indices.

    Args:
        cfg: the config of a run.
        class_names: the classes of the weights, by class index; () takes those of the training set.
        asked: the overrides of the command line; model.num_classes, and files of a dataset, are not changed if they are
            among them.

    Raises:
        InputError: if files are missing, a JSON is wrong, or `model.postprocess.classes` has an unknown name.
    """
    is_own = use_data(cfg, asked)
    file = OmegaConf.select(cfg, "dataloader.train.dataset.json_file")
    names, source = list(class_names), "the checkpoint"
    if not names and isinstance(file, str) and (is_own or Path(file).expanduser().is_file()):
        names, source = classes_of_training(cfg, file), file
    if not names:
        return
    for key in ("train.dataset", "test.dataset", "evaluator"):
        node = OmegaConf.select(cfg, f"dataloader.{key}")
        if takes_classes(node):
            with open_dict(node):
                node.classes = names
    number = OmegaConf.select(cfg, "model.num_classes")
    decides = (is_own or class_names) and "model.num_classes" not in keys_of(asked)
    if number is not None and number != len(names) and decides:
        cfg.model.num_classes = len(names)
        logger.info("model.num_classes=%d: the classes of %s (%s)", len(names), source, some(names))
    settle_detected_classes(cfg, names)


def settle_detected_classes(cfg: DictConfig, class_names: Sequence[str]) -> None:
    """Replace the names in `model.postprocess.classes` by class indices, in place; whole numbers are indices already.

    Raises InputError for a name that is not among the classes.
    """
    wanted = OmegaConf.select(cfg, "model.postprocess.classes")
    if wanted is None or isinstance(wanted, str):
        wanted = [] if wanted is None else [wanted]
    if unknown := [name for name in wanted if isinstance(name, str) and name not in class_names]:
        near = "; ".join(f"{name} (near: {near_names(name, class_names)})" for name in unknown)
        raise InputError(
            f"model.postprocess.classes: there is no class {near}; the {len(class_names)} classes are "
            f"{some(class_names)}"
        )
    if wanted:
        cfg.model.postprocess.classes = [
            list(class_names).index(name) if isinstance(name, str) else name for name in wanted
        ]


def classes_of_training(cfg: DictConfig, json_file: str) -> list[str]:
    """The class names of the training set: those in its config node if they cover the file's, otherwise the file's."""
    names = read_class_names(json_file)
    given = list(OmegaConf.select(cfg, "dataloader.train.dataset.classes") or ())
    if given and not set(names) <= set(given):
        logger.warning(
            "%s: has classes (%s) that are not among dataloader.train.dataset.classes (%s); the file's are used",
            json_file, some(names), some(given),
        )  # fmt: skip
    return given if given and set(names) <= set(given) else names


def takes_classes(node: Any) -> bool:
    """Whether a node's target has the argument `classes`; a stored config of an earlier version may not list it."""
    if not isinstance(node, DictConfig) or "_target_" not in node:
        return False
    target = node["_target_"]
    name = target if isinstance(target, str) else getattr(target, "__qualname__", "")
    return "classes" in node or name.rpartition(".")[2] in ("CocoDetection", "CocoEvaluator")


def keys_of(overrides: Sequence[str]) -> set[str]:
    """The keys that overrides change."""
    return {text.partition("=")[0].lstrip("+") for text in overrides}


def use_data(cfg: DictConfig, asked: Sequence[str]) -> bool:
    """Replace `dataloader.data`, if it is set, by the files that it leads to; return whether it was set."""
    data: Any = OmegaConf.select(cfg, "dataloader.data")
    if data is None:
        return False
    splits = find_splits(list(data) if isinstance(data, ListConfig) else str(data))
    for key, name in (("train", "train"), ("test", "val")):
        dataset = cfg.dataloader[key].dataset
        for argument in ("json_file", "image_root"):
            if f"dataloader.{key}.dataset.{argument}" not in keys_of(asked):
                dataset[argument] = str(getattr(splits[name], argument))
        logger.info("%s: %s, images in %s", key, dataset.json_file, dataset.image_root)
    if splits.get("test") == splits["val"]:
        logger.info("%s: there is no validation set, the test set is used for evaluation", data)
    cfg.dataloader.data = None  # the config that is stored with the run names the files
    return True
