"""The restricted form of a config that comes from the web: it names parts of detectors and holds plain values."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import nn

from crossstage.config import yaml_form
from crossstage.config.names import locate
from crossstage.config.nodes import as_config
from crossstage.errors import InputError

ROOTS = ("model", "dataloader")
# The packages whose classes are parts of detectors: none of them reads files or runs code that it is given.
PARTS = ("crossstage.layers", "crossstage.modeling", "crossstage.projects", "crossstage.data.transforms", "csla", "dca")
TORCH = "torch.nn.modules"
OF_FILES = ("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")  # timm's
SPECIAL = ("_object_", "_pickled_", "_import_from_", "_args_", "_partial_")


def read_restricted(file: Path) -> DictConfig:
    """Read a config.yaml of the restricted form. Nothing in it is built or run here.

    Raises:
        InputError: if the file is not valid YAML, or `check_restricted` refuses it.
    """
    try:
        values = yaml_form.parse(file.read_text(encoding="utf-8"), file)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read as text ({error})") from error
    check_restricted(values, file)
    return as_config(values)


def check_restricted(values: Any, file: str | Path) -> None:
    """Refuse whatever could run code that the file brings along, or read other files.

    Args:
        values: a config as plain YAML values.
        file: where it is from, for messages.

    Raises:
        InputError: if there is anything but `model` and `dataloader`; if a `_target_` is not a class of ours that is a
            part of a detector, or one of torch's modules; for an interpolation, and for other forms of objects; if the
            backbone is not one of timm's own, or if its options may name files.
    """
    if not isinstance(values, dict) or not set(values) <= set(ROOTS) or "model" not in values:
        found = ", ".join(map(str, values)) if isinstance(values, dict) else type(values).__name__
        raise InputError(f"{file}: refused, it holds {found}; expected a config with {' and '.join(ROOTS)} alone")
    for path, key, value in _items(values, ""):
        if key in SPECIAL:
            raise InputError(f"{file}: refused, {path} stands for an object or code; expected plain values")
        if key == "_target_" and not is_part(value):
            raise InputError(
                f"{file}: refused, {path} is {value!r}; expected a class of {', '.join(PARTS)} or of torch.nn, by its "
                "name; a detector with parts of your own cannot be published in this form"
            )
        if isinstance(value, str) and "${" in value:
            raise InputError(f"{file}: refused, {path} is the interpolation {value}; expected a value")
    _check_backbone(values["model"], file)


def is_part(name: Any) -> bool:
    """Whether a dotted name is a class that is a part of detectors: one of ours, or one of torch's modules.

    The class must be defined where the name says: `crossstage.modeling.x.os.system` is not.
    """
    if not isinstance(name, str) or not name.startswith((*(f"{part}." for part in PARTS), "torch.nn.")):
        return False
    try:
        found = locate(name)
    except InputError:
        return False
    if not inspect.isclass(found):
        return False
    if found.__module__.startswith(f"{TORCH}."):
        return issubclass(found, nn.Module)
    return any(f"{found.__module__}.".startswith(f"{part}.") for part in PARTS)


def _check_backbone(model: Any, file: str | Path) -> None:
    """timm reads a model's name with a colon from the web, and files that its options name."""
    backbone = model.get("backbone") if isinstance(model, dict) else None
    if not isinstance(backbone, dict):
        return
    name, options = backbone.get("name", ""), backbone.get("options") or {}
    if not isinstance(name, str) or {":", "/"} & set(name) or backbone.get("pretrained", True) is not False:
        raise InputError(
            f"{file}: refused, model.backbone is not one of timm's by its plain name with pretrained: false"
        )
    for path, key, value in _items(options, "model.backbone.options"):
        if key in OF_FILES or (isinstance(value, str) and not value.isidentifier()):
            raise InputError(f"{file}: refused, {path}={value!r} may name a file; expected numbers or plain words")


def _items(value: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """(path, key, value) of everything in nested mappings and lists."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in pairs:
        below = f"{path}.{key}" if path else str(key)
        yield below, key, item
        yield from _items(item, below)
