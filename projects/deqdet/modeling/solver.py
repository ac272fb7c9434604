"""Solvers of the fixed-point equation y = f(y), on states of refinement steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from crossstage.modeling.layer_seams import State

Advance = Callable[[State, int], tuple[State, Tensor]]
"""One application of f: the state and the number of the step, from 1 -> the next state and logits [B, N, K]."""


@dataclass(frozen=True)
class Application:
    """One application of f.

    Attributes:
        start: the state that f was applied to.
        state: the state that f returned.
        logits: [B, N, K], predicted together with `state`.
    """

    start: Any
    state: Any
    logits: Tensor

    def residual(self) -> Tensor:
        """How far it moved the contents of each image: norm of the change over the norm, [B], in float32."""
        return relative_residual(self.start, self.state)


class Solver(Protocol):
    """How the fixed point is approached.

    takes_noise: whether it still works if each application of f sees its state with other noise.
    """

    takes_noise: bool

    def __call__(self, advance: Advance, state: State, *, steps: int) -> Iterator[Application]:
        """Yield `steps` applications of f, of which the first starts from `state`."""
        ...


class FixedPointIteration:
    """Applies f again and again, each time to its own result.

    Args:
        tolerance: an image whose relative residual falls below it keeps its state, whatever the other images of the
            batch do; None: all images take all steps.

    Raises:
        ValueError: if the tolerance is not positive.
    """

    takes_noise = True

    def __init__(self, *, tolerance: float | None = None) -> None:
        self.tolerance = _checked(tolerance)

    def __call__(self, advance: Advance, state: State, *, steps: int) -> Iterator[Application]:
        """Yield the application of each of the steps."""
        return _applications(
            advance, state, lambda application: application.state, steps=steps, tolerance=self.tolerance
        )


class AndersonAcceleration:
    """Applies f to a combination of the last results, by Anderson (Journal of the ACM, 1965).

    The combination is one of contents, chosen for each image alone (`anderson_mix`); boxes are those that f returned
    last. It approaches the fixed point in fewer steps than FixedPointIteration where f contracts slowly.

    Args:
        memory: how many of the last applications are combined.
        ridge: regularisation of the combination, as a share of the largest squared residual among them.
        mixing: share of f's results in the combination; the rest is what f was applied to.
        tolerance: as of FixedPointIteration.

    Raises:
        ValueError: if a number is not positive.
    """

    takes_noise = False

    def __init__(
        self, *, memory: int = 5, ridge: float = 1e-4, mixing: float = 1.0, tolerance: float | None = None
    ) -> None:
        if memory < 1 or min(ridge, mixing) <= 0:
            raise ValueError(f"memory={memory}, ridge={ridge}, mixing={mixing}: expected positive numbers")
        self.memory, self.ridge, self.mixing, self.tolerance = memory, ridge, mixing, _checked(tolerance)

    def __call__(self, advance: Advance, state: State, *, steps: int) -> Iterator[Application]:
        """Yield the application of each of the steps: what f returned, before it is combined with earlier results."""
        starts: deque[Tensor] = deque(maxlen=self.memory)
        results: deque[Tensor] = deque(maxlen=self.memory)

        @torch.no_grad()
        def combined(application: Application) -> Any:
            starts.append(application.start.content)
            results.append(application.state.content)
            content = anderson_mix(
                torch.stack([*starts]), torch.stack([*results]), ridge=self.ridge, mixing=self.mixing
            )
            return replace(application.state, content=content)

        return _applications(advance, state, combined, steps=steps, tolerance=self.tolerance)


def anderson_mix(starts: Tensor, results: Tensor, *, ridge: float, mixing: float) -> Tensor:
    """The next content to apply f to: the combination of earlier contents whose residuals cancel best.

    The weights of an image sum to 1, and minimise the squared norm of the weighted sum of its residuals, plus `ridge`
    times the largest squared residual times the sum of the squared weights. They are computed in float32 at least.

    Args:
        starts: contents that f was applied to, [m, B, N, C].
        results: what f returned, [m, B, N, C].
        ridge: positive; without it the weights of residuals that depend on each other would be undefined.
        mixing: share of `results` against `starts`.

    Returns:
        [B, N, C], in the dtype of `results`.
    """
    dtype = torch.promote_types(results.dtype, torch.float32)
    with torch.autocast(results.device.type, enabled=False):
        before, after = (contents.to(dtype).flatten(2).transpose(0, 1) for contents in (starts, results))
        moves = after - before  # [B, m, N * C]
        products = moves @ moves.mT
        largest = products.diagonal(dim1=1, dim2=2).amax(dim=1).clamp(min=torch.finfo(dtype).tiny)
        system = products / largest[:, None, None] + ridge * torch.eye(len(starts), dtype=dtype, device=starts.device)
        # the weights solve `system @ weights = 1` up to their sum; solve_ex, because solve waits for the device
        weights, _ = torch.linalg.solve_ex(system, torch.ones_like(system[..., :1]))
        weights = weights / weights.sum(dim=1, keepdim=True)
        mixed = (weights.mT @ (before + mixing * moves)).squeeze(1)
    return mixed.view_as(results[0]).to(results.dtype)


def _applications(
    advance: Advance,
    state: State,
    following: Callable[[Application], State],
    *,
    steps: int,
    tolerance: float | None,
) -> Iterator[Application]:
    """Apply f `steps` times. following: from an application, what f is applied to next."""
    active: Tensor | None = None  # bool [B], the images that still move
    start = state
    for index in range(1, steps + 1):
        if index == 1 or active is None:
            state, logits = advance(start, index)
        elif active.any():  # waits for the device, which only a tolerance makes necessary
            found, scores = advance(start, index)
            state = per_tensor(partial(_where, active), found, state)
            logits = _where(active, scores, logits)
        application = Application(start, state, logits)
        if tolerance is not None:
            active = application.residual() >= tolerance
        yield application
        start = following(application)
        if active is not None:  # an image that stopped has no residual from now on
            start = per_tensor(partial(_where, active), start, state)


def _checked(tolerance: float | None) -> float | None:
    if tolerance is not None and tolerance <= 0:
        raise ValueError(f"tolerance={tolerance}: expected a positive number, or None to take all steps")
    return tolerance


def relative_residual(before: State, after: State) -> Tensor:
    """How far the contents of each image moved: norm of the change over the norm, [B], in float32 at least."""
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
