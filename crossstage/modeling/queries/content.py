"""The content half of queries."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from crossstage.structures import Losses, Memory


@dataclass(frozen=True)
class Content:
    """What a content source makes.

    Attributes:
        values: [B, count, C], or [1, count, C] where they are the same for every image.
        losses: terms and metrics of its own, or None.
    """

    values: Tensor
    losses: Losses | None = None


class LearnedContent(nn.Module):
    """One learned vector per query, the same for every image.

    Args:
        num_queries, embed_dim: as the source's.
        extra_queries: as the source's; further vectors for extra groups.
    """

    def __init__(self, num_queries: int, embed_dim: int = 256, *, extra_queries: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_queries + extra_queries, embed_dim).normal_())

    def forward(self, memory: Memory, count: int) -> Content:
        """The first `count` vectors: [1, count, C]."""
        return Content(self.weight[None, :count])
