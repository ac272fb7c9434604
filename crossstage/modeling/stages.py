"""Layers that differ from stage to stage: one config node, or one number, read at the stage that is built."""

import copy
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig


def at_stage(node: Any, **values: Any) -> Any:
    """A copy of a layer's node in which each of these names has its value wherever it occurs, at any depth."""
    node = copy.deepcopy(node)
    pending = [node]
    while pending:
        part = pending.pop()
        for name, value in values.items():
            if name in part:
                part[name] = value
        pending += [part[name] for name in part if isinstance(part[name], DictConfig | dict)]
    return node


def of_stage(numbers: int | Sequence[int], stage: int) -> int:
    """One number for all stages, or a number for each; the last one holds for all later stages."""
    return numbers if isinstance(numbers, int) else int(numbers[min(stage, len(numbers) - 1)])
