"""Adaptive mixing (AdaMixer, CVPR 2022, section 3.3): a query makes the filters that mix its own samples."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from crossstage.modeling.stages import of_stage


def normed_relu(features: Tensor) -> Tensor:
    """ReLU of a layer norm over points and channels together, without parameters: [..., P, C] -> [..., P, C]."""
    return F.layer_norm(features, features.shape[-2:]).relu_()


class AdaptiveMixing(nn.Module):
    """Mixes a query's samples over channels, then over points, by filters generated from the query; residual included.

    num_points: P, samples of a group (a number, or one for each stage).  num_outputs: rows of the filter over points.
    Raises ValueError where embed_dim is not a multiple of num_groups.
    """

    def __init__(
        self,
        embed_dim: int = 256,
        *,
        num_groups: int = 4,
        num_points: int | Sequence[int] = 32,
        num_outputs: int = 128,
        stage: int = 0,
    ) -> None:
        super().__init__()
        self.width = group_width(embed_dim, num_groups)
        self.num_groups, self.num_outputs = num_groups, num_outputs
        self.num_points = of_stage(num_points, stage)
        self.filters = nn.Linear(embed_dim, num_groups * (self.width**2 + num_outputs * self.num_points))
        self.project = nn.Linear(num_outputs * embed_dim, embed_dim)
        nn.init.zeros_(self.filters.weight)
        nn.init.xavier_uniform_(self.project.weight)

    def forward(self, content: Tensor, features: Tensor, bank: tuple[Any, ...] = ()) -> tuple[Tensor, tuple[Any, ...]]:
        """content: [B, N, C], features: [B, N, G, P, C / G] -> content [B, N, C], and the bank, which it leaves."""
        over_channels, over_points = (
            self.filters(content)
            .unflatten(-1, (self.num_groups, -1))
            .split([self.width**2, self.num_outputs * self.num_points], dim=-1)
        )
        mixed = normed_relu(features @ over_channels.unflatten(-1, (self.width, self.width)))
        mixed = normed_relu(over_points.unflatten(-1, (self.num_outputs, self.num_points)) @ mixed)
        return content + self.project(mixed.flatten(2)), bank


def group_width(embed_dim: int, num_groups: int) -> int:
    """Channels of a group. Raises ValueError where they do not divide evenly."""
    if embed_dim % num_groups:
        raise ValueError(f"embed_dim={embed_dim} must be a multiple of num_groups={num_groups}")
    return embed_dim // num_groups
