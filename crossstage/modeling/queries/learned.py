"""Learned queries whose positions give their reference points (one-stage Deformable-DETR)."""

from torch import nn

from crossstage.modeling.seams import ContentSource
from crossstage.structures import Memory, Queries, QueryGroup


class LearnedQueries(nn.Module):
    """Learned content and positions; reference points are read from the positions and keep their gradient.

    Args:
        content: makes the contents; None: they are learned together with the positions.
        extra_queries: further queries for extra groups.
    """

    group_names = ("matching",)

    def __init__(
        self, *, num_queries: int, embed_dim: int = 256, content: ContentSource | None = None, extra_queries: int = 0
    ) -> None:
        super().__init__()
        self.num_queries, self.extra_queries, self.content = num_queries, extra_queries, content
        # positions, then content: as in the released weights
        self.embedding = nn.Embedding(num_queries + extra_queries, 2 * embed_dim if content is None else embed_dim)
        self.reference_points = nn.Linear(embed_dim, 2)
        nn.init.xavier_normal_(self.reference_points.weight)
        nn.init.zeros_(self.reference_points.bias)

    def forward(self, memory: Memory, count: int) -> Queries:
        """Content and positions [B, count, C], points [B, count, 2]."""
        learned = self.embedding.weight[:count].expand(memory.tokens.shape[0], -1, -1)
        losses = None
        if self.content is None:
            positions, values = learned.chunk(2, dim=-1)
        else:
            content = self.content(memory, count)
            positions, values, losses = learned, content.values.expand_as(learned), content.losses
        points = self.reference_points(positions)
        return Queries(
            content=values,
            references=points.to(memory.valid_ratios.dtype).sigmoid(),
            groups=(QueryGroup("matching", count),),
            positions=positions,
            losses=losses,
        )
