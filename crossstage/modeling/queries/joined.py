"""Joins the queries of a source with the extra groups of training: one place for order, masks and checks."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from crossstage.modeling.parts import module_dict
from crossstage.modeling.seams import ExtraGroup, PositionSource, QuerySource
from crossstage.structures import Losses, Memory, PaddedTargets, Queries, QueryGroup


class JoinedQueries(nn.Module):
    """The queries of a detector: those of the source, and in training those of extra groups.

    Groups whose matches are known (denoising) come first on the query axis, then the matched ones, then the others;
    nobody relies on it: groups are found by name. A group sees its own block, and the groups that it `sees`.

    Args:
        source: makes the matched queries.
        extra: groups to add in training.

    Raises:
        ValueError: if two groups have one name, or the extra groups need other extra queries than the source has.
    """

    def __init__(self, *, source: QuerySource, extra: Sequence[ExtraGroup] = ()) -> None:
        super().__init__()
        names = [*source.group_names, *(group.name for group in extra)]
        if repeated := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise ValueError(f"extra: two query groups are called {repeated[0]!r}")
        wanted = sum(group.num_source_queries for group in extra)
        if wanted != source.extra_queries:
            raise ValueError(f"source.extra_queries={source.extra_queries}, but the extra groups take {wanted}")
        self.source = source
        self.extra = module_dict({group.name: group for group in extra})

    @property
    def group_names(self) -> tuple[str, ...]:
        """The groups that need a supervision."""
        return (*self.source.group_names, *self.extra)

    def forward(self, memory: Memory, targets: PaddedTargets | None = None) -> Queries:
        """memory, and in training the targets -> all queries with their groups and attention mask."""
        groups = [] if targets is None else list(self.extra.values())
        counts = [self.source.num_queries, *(group.num_source_queries for group in groups)]
        whole = self.source(memory, sum(counts))
        for group in self.extra.values():
            whole = group.adapt(whole)
        own, *taken = cut(whole, counts)
        parts = [own]
        if targets is not None:
            parts += [group(targets, queries) for group, queries in zip(groups, taken, strict=True)]
        joined = join([self._positioned(part, own) for part in parts])
        return replace(joined, proposals=whole.proposals, losses=_joined_losses(whole, *parts[1:]))

    def _positioned(self, part: Queries, own: Queries) -> Queries:
        """A part with query positions, where the source's queries have them."""
        name = part.groups[0].name
        if part.references.shape[-1] != own.references.shape[-1]:
            raise ValueError(
                f"{type(self.source).__name__} gives reference points and the group {name!r} gives boxes: choose a "
                "source with boxes, such as ProposalQueries or TwoStageQueries, or leave the group out"
            )
        if own.positions is None or part.positions is not None:
            return part
        if not isinstance(self.source, PositionSource):
            raise ValueError(
                f"{type(self.source).__name__} sets Queries.positions, which the group {name!r} needs too: give the "
                "source a method positions(references), [B, N, 4] -> [B, N, C]"
            )
        return replace(part, positions=self.source.positions(part.references))


def cut(queries: Queries, sizes: Sequence[int]) -> list[Queries]:
    """Cut one group into consecutive parts, each named like the whole."""
    (group,) = queries.groups
    rows = {
        name: value.split(list(sizes), dim=1)
        for name in ("content", "references", "positions")
        if (value := getattr(queries, name)) is not None
    }
    return [
        Queries(groups=(QueryGroup(group.name, size),), **{name: part[index] for name, part in rows.items()})
        for index, size in enumerate(sizes)
    ]


def join(parts: Sequence[Queries]) -> Queries:
    """Concatenate parts of one group each, those with known matches first, and mask what does not see each other."""
    parts = sorted(parts, key=lambda part: (part.groups[0].matches is None, part.groups[0].name != "matching"))
    groups = tuple(group for part in parts for group in part.groups)
    if len(parts) == 1:
        return replace(parts[0], attention_mask=group_attention_mask(groups, parts[0].content.device))
    content, references = parts[-1].content, parts[-1].references
    positions = [part.positions for part in parts if part.positions is not None]
    return Queries(
        content=torch.cat([part.content.to(content.dtype) for part in parts], dim=1),
        references=torch.cat([part.references.to(references.dtype) for part in parts], dim=1),
        groups=groups,
        attention_mask=group_attention_mask(groups, content.device),
        positions=None if parts[0].positions is None else torch.cat(positions, dim=1),
    )


def group_attention_mask(groups: tuple[QueryGroup, ...], device: torch.device) -> Tensor | None:
    """Which queries must not see which: bool [N, N], True = the row's query may not attend to the column's.

    A query attends to the queries of its block and to the groups that its group `sees`. None where nothing is masked.

    Raises:
        ValueError: if a group sees one that is not there.
    """
    sizes = [group.size for group in groups]
    names = [group.name for group in groups]
    for group in groups:
        if unknown := [name for name in group.sees if name not in names]:
            raise ValueError(f"group {group.name!r} sees {unknown[0]!r}, but the groups are {', '.join(names)}")
    if sum(size > 0 for size in sizes) < 2 and all(group.num_blocks == 1 for group in groups):
        return None
    owner = torch.cat([torch.full((size,), index, device=device) for index, size in enumerate(sizes)])
    block = torch.cat([torch.arange(group.size, device=device) // (group.block or group.size or 1) for group in groups])
    visible = (owner[:, None] == owner) & (block[:, None] == block)
    for index, group in enumerate(groups):
        for name in group.sees:
            visible |= (owner[:, None] == index) & (owner == names.index(name))
    return ~visible


def _joined_losses(*parts: Queries) -> Losses | None:
    """The losses of all parts that have some."""
    found = [part.losses for part in parts if part.losses is not None]
    return found[0].joined(*found[1:]) if found else None
