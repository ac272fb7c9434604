"""Learned queries (Deformable-DETR)."""

from torch import nn

from crossstage.modeling.queries.denoising import group_attention_mask
from crossstage.modeling.queries.one_to_many import OneToMany, matching_groups
from crossstage.structures import Memory, PaddedTargets, Queries


class LearnedQueries(nn.Module):
    """One-stage Deformable-DETR: learned content and positions; reference points are read from the positions.

    The points keep their gradient. one_to_many: H-DETR's hybrid branch, or None.
    """

    def __init__(self, *, num_queries: int, embed_dim: int = 256, one_to_many: OneToMany | None = None) -> None:
        super().__init__()
        self.num_queries, self.one_to_many = num_queries, one_to_many
        total = num_queries + (one_to_many.num_queries if one_to_many else 0)
        self.embedding = nn.Embedding(total, 2 * embed_dim)  # positions, then content: as in the released weights
        self.reference_points = nn.Linear(embed_dim, 2)
        nn.init.xavier_normal_(self.reference_points.weight)
        nn.init.zeros_(self.reference_points.bias)

    def forward(self, memory: Memory, targets: PaddedTargets | None = None) -> Queries:
        """targets: in training; they ask for the one-to-many queries too."""
        groups = matching_groups(self.num_queries, self.one_to_many if targets is not None else None)
        count = sum(group.size for group in groups)
        learned = self.embedding.weight[:count].expand(memory.tokens.shape[0], -1, -1)
        positions, content = learned.chunk(2, dim=-1)
        points = self.reference_points(positions)
        return Queries(
            content=content,
            references=points.to(memory.valid_ratios.dtype).sigmoid(),
            groups=groups,
            attention_mask=group_attention_mask(groups, content.device),
            positions=positions,
        )
