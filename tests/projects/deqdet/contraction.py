"""A step by hand whose fixed point and gradient are known: y -> tanh(W y + b), 12 wide."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from crossstage.structures import Memory, Queries

WIDTH = 12


@dataclass(frozen=True)
class Content:
    """A state without boxes."""

    content: Tensor


class Contraction(nn.Module):
    """The step. norm: |W|; below 1, repeated steps come nearer to the one fixed point."""

    def __init__(self, norm: float = 0.15) -> None:
        super().__init__()
        self.weight = nn.Parameter(norm * torch.linalg.qr(torch.randn(WIDTH, WIDTH, dtype=torch.float64))[0])
        self.bias = nn.Parameter(torch.randn(WIDTH, dtype=torch.float64))

    def start(self, queries: Queries, memory: Memory) -> Content:
        return Content(queries.content)

    def forward(self, state: Content, memory: Memory, attention_mask: Tensor | None = None) -> tuple[Content, Tensor]:
        content = (state.content @ self.weight.T + self.bias).tanh()
        return Content(content), content[..., :3]

    def boxes(self, states: list[Content], memory: Memory) -> Tensor:
        return torch.stack([state.content[..., :4] for state in states])

    def implicit_gradient(self, point: Tensor, direction: Tensor) -> Tensor:
        """The gradient of <direction, y*> by the bias, from the implicit function theorem; y*, direction: [WIDTH]."""
        slopes = 1 - (self.weight @ point + self.bias).tanh() ** 2
        jacobian = slopes[:, None] * self.weight
        return slopes * torch.linalg.solve((torch.eye(WIDTH, dtype=torch.float64) - jacobian).T, direction)
