"""H-DETR's hybrid branch: further queries in training, several of them for each object (Jia et al., CVPR 2023)."""

from dataclasses import replace

from torch import nn

from crossstage.structures import PaddedTargets, Queries, QueryGroup


class OneToMany(nn.Module):
    """Takes the source's extra queries as a group of its own; it and the matched queries do not see each other.

    How many queries each object gets is its supervision's: `criterion.groups.one_to_many.matcher.copies`.

    Args:
        num_queries: queries of the branch; the source's `extra_queries` must be as many.
    """

    name = "one_to_many"

    def __init__(self, *, num_queries: int) -> None:
        super().__init__()
        self.num_source_queries = num_queries

    def forward(self, targets: PaddedTargets, queries: Queries) -> Queries:
        """The given queries of the source, as the group "one_to_many"."""
        return replace(queries, groups=(QueryGroup(self.name, queries.content.shape[1]),))

    def adapt(self, queries: Queries) -> Queries:
        """The source's queries as they are."""
        return queries
