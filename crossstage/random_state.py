"""The global random generators of a process: seeding, and saving and restoring their states."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_all(seed: int) -> None:
    """Seed torch (all devices), numpy and Python."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - a user's model or transform may use this generator
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """The states of the generators of Python, numpy, torch (CPU and current CUDA device), as tensors and numbers."""
    version, words, python_gauss = random.getstate()
    numbers = np.random.get_state(legacy=False)  # noqa: NPY002
    return {
        "python": {"version": version, "words": torch.tensor(words), "gauss": python_gauss},
        "numpy": {
            "name": numbers["bit_generator"],
            "keys": torch.from_numpy(numbers["state"]["key"].astype(np.int64)),
            "position": int(numbers["state"]["pos"]),
            "has_gauss": int(numbers["has_gauss"]),
            "gauss": float(numbers["gauss"]),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if _uses_cuda() else None,
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what `random_state` returned; the CUDA part only if CUDA is in use."""
    python, numbers = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    keys = numbers["keys"].numpy().astype(np.uint32)
    np.random.set_state((numbers["name"], keys, numbers["position"], numbers["has_gauss"], numbers["gauss"]))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and _uses_cuda():
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Inside, random numbers may be drawn; afterwards the states of all generators are restored."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)


def _uses_cuda() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_initialized()
