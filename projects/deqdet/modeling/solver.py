"""Solvers of the fixed-point equation y = f(y), on states of refinement steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from functools import partial

import torch
from torch import Tensor

from crossstage.modeling.layer_seams import State

Advance = Callable[[State, int], tuple[State, Tensor]]
"""One application of f: the state and the number of the step, from 1 -> the next state and logits [B, N, K]."""


class FixedPointIteration:
    """Applies f again and again.

    Args:
        tolerance: an image whose relative residual falls below it keeps its state, whatever the other images of the
            batch do; None: all images take all steps.

    Raises:
        ValueError: if the tolerance is not positive.
    """

    def __init__(self, *, tolerance: float | None = None) -> None:
        if tolerance is not None and tolerance <= 0:
            raise ValueError(f"tolerance={tolerance}: expected a positive number, or None to take all steps")
        self.tolerance = tolerance

    def __call__(self, advance: Advance, state: State, *, steps: int) -> Iterator[tuple[State, Tensor]]:
        """Yield the state and the logits after each of the steps."""
        active: Tensor | None = None  # bool [B], the images that still move
        for index in range(1, steps + 1):
            before = state
            if index == 1 or active is None:
                state, logits = advance(before, index)
            elif active.any():  # waits for the device, which only a tolerance makes necessary
                found, scores = advance(before, index)
                state = per_tensor(partial(_where, active), found, before)
                logits = _where(active, scores, logits)
            if self.tolerance is not None:
                active = relative_residual(before, state) >= self.tolerance
            yield state, logits


def relative_residual(before: State, after: State) -> Tensor:
    """How far one application moved the contents of each image: norm of the change over the norm, [B], in float32."""
    old, new = (state.content.to(torch.promote_types(state.content.dtype, torch.float32)) for state in (before, after))
    return (new - old).flatten(1).norm(dim=1) / new.flatten(1).norm(dim=1)


def per_tensor(function: Callable[..., Tensor], state: State, *others: State) -> State:
    """Apply a function to corresponding tensors of states; a field that is None stays None."""
    values = {field.name: getattr(state, field.name) for field in fields(state)}
    return replace(
        state,
        **{
            name: function(value, *(getattr(other, name) for other in others))
            for name, value in values.items()
            if value is not None
        },
    )


def _where(active: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Choose image by image. active: bool [B]; new, old: [B, ...]."""
    return torch.where(active.view(-1, *[1] * (new.dim() - 1)), new, old)
