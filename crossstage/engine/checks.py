"""Checks before a run starts: the files of the data exist, and model, data and checkpoint have the same classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from crossstage.checkpoints.load import load_weights
from crossstage.data.classes import some
from crossstage.engine.session import Parts
from crossstage.errors import InputError


def preflight(parts: Parts) -> None:
    """Check the files of the datasets before the run starts."""
    for loader in parts.loaders:
        if hasattr(loader.dataset, "preflight"):
            loader.dataset.preflight()


def check_classes(model: nn.Module, loader: Any) -> None:
    """Raise InputError if the model and the dataset have different numbers of classes."""
    ours, theirs = getattr(model, "num_classes", None), getattr(loader.dataset, "num_classes", None)
    if ours is not None and theirs is not None and ours != theirs:
        file = getattr(loader.dataset, "json_file", "the dataset")
        raise InputError(f"model.num_classes={ours}, but {file} has {theirs} classes; add model.num_classes={theirs}")


def check_same_classes(parts: Parts) -> None:
    """Raise InputError if training and evaluation have different classes, or the same in another order."""
    known = [
        (part, [str(name) for name in part.class_names])
        for part in (*(loader.dataset for loader in parts.loaders), parts.evaluator)
        if getattr(part, "class_names", None)
    ]
    for part, names in known[1:]:
        first, expected = known[0]
        if names != expected:
            raise InputError(
                f"{getattr(part, 'json_file', 'the test set')}: its classes ({some(names)}) are not those of "
                f"{getattr(first, 'json_file', 'the training set')} ({some(expected)}) in the same order; expected the "
                "same class names"
            )


def check_same_run(checkpoint: dict[str, Any], parts: Parts, path: Path, *, max_iter: int) -> None:
    """Raise InputError if a checkpoint does not fit the model, the classes or the length of this run."""
    if checkpoint["iteration"] >= max_iter:
        raise InputError(
            f"train.max_iter={max_iter}: {path} has already done {checkpoint['iteration'] + 1} iterations; expected at "
            "least as many, or a new train.output_dir"
        )
    names = [str(name) for name in getattr(parts.train_loader.dataset, "class_names", ())]
    if names != checkpoint["class_names"]:
        raise InputError(
            f"{path}: its classes ({some(checkpoint['class_names'])}) are not the dataset's ({some(names)}); "
            "resume with the dataset that the run began with"
        )
    load_weights(parts.model, checkpoint["model"], path)
