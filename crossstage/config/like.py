"""A node that differs from another one in a few arguments."""

from __future__ import annotations

import copy
from typing import Any

from omegaconf import DictConfig


def like(node: DictConfig, **changes: Any) -> DictConfig:
    """Copy a node and change some of its arguments. The copy shares nothing with the original.

    Args:
        node: the node to copy.
        **changes: the new values by argument.

    Returns:
        The changed copy.

    Raises:
        KeyError: for an argument that the node does not have.
    """
    changed = copy.deepcopy(node)
    changed._set_parent(None)
    for name, value in changes.items():
        if name not in changed:
            raise KeyError(f"{name}: the node has {', '.join(str(key) for key in node)}")
        changed[name] = value
    return changed
