"""Activation checkpointing: intermediate values are computed again in the backward pass instead of being kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint


def recomputed(function: Callable[..., Any], *arguments: Any, when: bool, **keywords: Any) -> Any:
    """Call a function; keep only its inputs for the backward pass, which calls it again.

    Outputs and gradients are the same bit for bit, also with dropout: the random state is restored for the second call.

    Args:
        function: a function of tensors, or of anything that holds them.
        *arguments: its positional arguments.
        when: False calls it as usual. Without gradients nothing is kept in either case.
        **keywords: its keywords.

    Returns:
        What the function returns.
    """
    if when and torch.is_grad_enabled():
        return checkpoint(function, *arguments, use_reentrant=False, **keywords)
    return function(*arguments, **keywords)
