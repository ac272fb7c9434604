"""Weights as safetensors, with the names and the category ids of the classes in the file's metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

CLASSES = {"class_names": str, "category_ids": (int, type(None))}  # lists as JSON, and the type of their items


def read_tensors(path: Path) -> dict[str, Any]:
    """Read a .safetensors file; no code in it can be run.

    Returns:
        The tensors by name, on the CPU. If the file names the classes, they are under "class_names" and
        "category_ids", as in a checkpoint, and the tensors under "model".

    Raises:
        ValueError: if the classes are not lists of names and ids.
        SafetensorError: if the file is damaged.
    """
    with safe_open(path, framework="pt", device="cpu") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
        stored = file.metadata() or {}
    classes = {key: json.loads(stored[key]) for key in CLASSES if key in stored}
    for key, values in classes.items():
        if not isinstance(values, list) or not all(isinstance(value, CLASSES[key]) for value in values):
            raise ValueError(f"the metadata {key} is not a list of {'names' if key == 'class_names' else 'ids'}")
    return {"model": tensors, **classes} if classes else tensors


def write_tensors(
    path: Path,
    state: Mapping[str, Tensor],
    *,
    class_names: Sequence[str] = (),
    category_ids: Sequence[int | None] = (),
) -> None:
    """Write a state dict, and the classes if they are known. Raises SafetensorError or OSError as safetensors does."""
    given = {"class_names": class_names, "category_ids": category_ids}
    metadata = {key: json.dumps(list(values), ensure_ascii=False) for key, values in given.items() if values}
    # The format does not allow two names for the same memory, as shared parameters have: copy every tensor.
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    save_file(copies, path, metadata={"format": "pt", **metadata})
