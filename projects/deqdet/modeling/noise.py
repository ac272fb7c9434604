"""Refinement-aware perturbation (DEQDet, section 3.4): noise on the way to the fixed point.

Where paper and released code differ we follow the code: each step decides once for the whole batch whether its content
and its positions get noise, and the noise on positions counts pixels of the network input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from crossstage.modeling.layer_seams import RefinementStep, State


@dataclass(frozen=True)
class PerturbationNoise:
    """The draws of one step: standard normal numbers, or None where the step gets no noise.

    Attributes:
        content: [B, N, C].
        position: [B, N, 4], for the corners (x1, y1, x2, y2).
    """

    content: Tensor | None = None
    position: Tensor | None = None


class Perturbation:
    """Noise on the state before a step.

    Args:
        content_probability: that a step's contents get noise.
        position_probability: that a step's boxes get noise.
        content_scale: share of the noise in the content; its size is that of the query's content.
        position_scale: standard deviation in pixels, for images of 800 pixels; smaller images need a smaller one.

    Raises:
        ValueError: if a probability does not lie in [0, 1].
    """

    def __init__(
        self,
        *,
        content_probability: float = 0.2,
        position_probability: float = 0.2,
        content_scale: float = 0.1,
        position_scale: float = 25.0,
    ) -> None:
        for name, value in (("content", content_probability), ("position", position_probability)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}_probability={value}: expected a number in [0, 1]; 0 switches the noise off")
        self.content_probability, self.position_probability = content_probability, position_probability
        self.content_scale, self.position_scale = content_scale, position_scale

    def draw(self, state: State, index: int) -> PerturbationNoise:
        """The noise of a step; `index` is its number, from 1.

        The decisions come from the CPU's generator, so that nothing waits for the device, and are drawn even where a
        probability is 0. Order: decision for the content, its noise, decision for the positions, their noise.
        """
        dtype = torch.promote_types(state.content.dtype, torch.float32)
        size = state.content.shape
        content = _normal(self.content_probability, state.content, dtype, size)
        position = _normal(self.position_probability, state.content, dtype, (*size[:2], 4))
        return PerturbationNoise(content, position)

    def apply(self, state: State, noise: PerturbationNoise, step: RefinementStep) -> State:
        """Add drawn noise: to the content, in proportion to its norm, and to the corners of the boxes."""
        if noise.content is not None:
            content = state.content.to(noise.content.dtype)
            share = self.content_scale
            mixed = (1 - share) * content + share * content.norm(dim=-1, keepdim=True) * noise.content
            state = replace(state, content=mixed.to(state.content.dtype))
        if noise.position is not None:
            state = step.noised(state, noise.position, self.position_scale)
        return state

    def __call__(self, state: State, index: int, step: RefinementStep) -> State:
        """Draw and apply the noise of step number `index`."""
        return self.apply(state, self.draw(state, index), step)


def _normal(probability: float, like: Tensor, dtype: torch.dtype, shape: Sequence[int]) -> Tensor | None:
    """Standard normal numbers with this probability, else None."""
    if torch.rand(()).item() >= probability:
        return None
    return torch.randn(shape, dtype=dtype, device=like.device)


class BranchNoise:
    """Noise on the supervised branches alone, while the way to the fixed point stays clean (DEQDet, Table 4e).

    Args:
        perturbation: what is added.
        steps_before: 0: noise on the state that the branch begins with; 1: on the state one step before it.

    Raises:
        ValueError: for other numbers of steps.
    """

    def __init__(self, perturbation: Perturbation, *, steps_before: int = 0) -> None:
        if steps_before not in (0, 1):
            raise ValueError(f"steps_before={steps_before}: expected 0 or 1")
        self.perturbation, self.steps_before = perturbation, steps_before
