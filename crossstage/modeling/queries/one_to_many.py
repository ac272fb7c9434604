"""H-DETR's hybrid branch: further queries in training, several of them for each object."""

from dataclasses import dataclass

from crossstage.structures import QueryGroup


@dataclass(frozen=True)
class OneToMany:
    """H-DETR's hybrid branch (Jia et al., CVPR 2023): further queries in training, several of them for each object.

    num_queries: of the branch, behind the matching ones on the query axis; neither kind sees the other.
    repeats: queries that each object is matched with.
    """

    num_queries: int = 1500
    repeats: int = 6

    def group(self) -> QueryGroup:
        """The branch as a group, with losses called `*_one2many`."""
        return QueryGroup("one_to_many", self.num_queries, "{loss}{stage}_one2many", repeats=self.repeats)


def matching_groups(num_queries: int, one_to_many: OneToMany | None) -> tuple[QueryGroup, ...]:
    """The matching group, and the one-to-many group where there is one."""
    matching = QueryGroup("matching", num_queries)
    return (matching,) if one_to_many is None else (matching, one_to_many.group())
