"""The seams of a detector: what a part of each kind is given, and what it returns. Letters as in `structures`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from crossstage.structures import Assignment, Losses, Memory, PaddedTargets, Queries, StageOutputs

if TYPE_CHECKING:
    import numpy as np

    from crossstage.modeling.queries.content import Content
    from crossstage.modeling.supervision.matching import MatchingProblem


class QuerySource(Protocol):
    """Makes the queries that are matched with objects (`modeling/queries/`).

    Attributes:
        num_queries: queries that are matched and that detect; always there.
        extra_queries: further ones that the source can make on request, for extra groups in training.
        group_names: the groups that it gives: "matching", and "proposals" where the encoder predicts too.
    """

    num_queries: int
    extra_queries: int
    group_names: tuple[str, ...]

    def __call__(self, memory: Memory, count: int) -> Queries:
        """Make the first `count` queries, at most num_queries + extra_queries, as one group "matching"."""
        ...


class ContentSource(Protocol):
    """Makes the content half of a source's queries, in place of a learned embedding."""

    def __call__(self, memory: Memory, count: int) -> Content:
        """The content of the first `count` queries: values [B or 1, count, C], and losses of its own or None."""
        ...


class ExtraGroup(Protocol):
    """Adds a group of queries in training, e.g. denoising or one-to-many queries.

    Attributes:
        name: of the group; the criterion needs a supervision of this name.
        num_source_queries: how many of the source's extra queries it takes; 0 where it makes its own.
    """

    name: str
    num_source_queries: int

    def __call__(self, targets: PaddedTargets, queries: Queries) -> Queries:
        """The extra queries as one group. queries: those of the source that this group takes, maybe none."""
        ...

    def adapt(self, queries: Queries) -> Queries:
        """Change the source's queries, in training and evaluation (DN-DETR marks them); most return them unchanged."""
        ...


class ClassCost(Protocol):
    """The class part of the matching cost."""

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """logits: [S, B, N, K], labels: int64 [B, T] -> [S, B, T, N]."""
        ...


class CopiesRule(Protocol):
    """Decides how many queries each object gets."""

    def __call__(self, outputs: StageOutputs, targets: PaddedTargets) -> Tensor:
        """int64 [S, B, T], on the device of the outputs."""
        ...


class Matcher(Protocol):
    """Decides which object each query has, at every stage.

    The costs of all groups travel to the host together; `supervision.matching.match_together` calls the two methods.
    """

    def problems(self, outputs: StageOutputs, targets: PaddedTargets) -> list[MatchingProblem]:
        """The costs, on the device."""
        ...

    def assign(self, cost: np.ndarray, problem: MatchingProblem, *, copies: np.ndarray | None, out: np.ndarray) -> None:
        """Solve one problem on the host; write the object's index of each query into out, int64 [S, b, N]."""
        ...


class LabelRule(Protocol):
    """Sets or changes the class targets of a group; see `supervision.labels`."""

    def __call__(self, outputs: StageOutputs, targets: PaddedTargets, assignment: Assignment) -> Assignment:
        """Return the assignment with other labels [S, B, N, K] (bool, or numbers in [0, 1]) or other box matches."""
        ...


class ClassLoss(Protocol):
    """The class loss of every stage."""

    def __call__(self, logits: Tensor, labels: Tensor, *, normalizer: Tensor) -> Tensor:
        """logits, labels: [S, B, N, K]; normalizer: [] or [S] -> [S]."""
        ...


class BoxLossFunction(Protocol):
    """The box losses of every stage, by kind.

    Attributes:
        kinds: the names of its losses, as the weights have them.
    """

    kinds: Sequence[str]

    def __call__(
        self, boxes: Tensor, targets: PaddedTargets, matches: Tensor, *, normalizer: Tensor
    ) -> dict[str, Tensor]:
        """boxes: [S, B, N, 4]; matches: int64 [S, B, N]; normalizer: [] or [S] -> [S] of each kind."""
        ...


class Normalizer(Protocol):
    """What class and box losses are divided by."""

    def __call__(self, targets: PaddedTargets, assignment: Assignment) -> tuple[Tensor, Tensor]:
        """Two divisors, each [] or [S]."""
        ...


class Criterion(Protocol):
    """All losses of a training step."""

    def __call__(self, groups: Sequence, targets: PaddedTargets) -> Losses:
        """groups: one GroupOutputs per query group."""
        ...
