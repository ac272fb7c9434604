"""The seams of a detector: what a part of each kind is given, and what it returns. Letters as in `structures`.

`Detector` calls the parts in the order of this file. Any object with the signature of a Protocol can take the part's
place in a config; nothing has to be inherited or registered. A part with parameters must be an `nn.Module`, so that
they are trained, moved and saved; a part without may be a plain class with `__call__`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from torch import Tensor

from crossstage.structures import (
    Assignment,
    Detections,
    FeaturePyramid,
    GroupOutputs,
    ImageBatch,
    Losses,
    Memory,
    PaddedTargets,
    Queries,
    StageOutputs,
)

if TYPE_CHECKING:
    import numpy as np

    from crossstage.modeling.queries.content import Content
    from crossstage.modeling.supervision.matching import MatchingProblem, Pairs


class Backbone(Protocol):
    """Computes feature maps from pixels (`modeling/backbone.py`).

    Attributes:
        strides: pixels per cell of each map, finest map first.
        channels: of each map.
    """

    strides: tuple[int, ...]
    channels: tuple[int, ...]

    def __call__(self, pixels: Tensor, mask: Tensor) -> Sequence[Tensor]:
        """Compute the maps.

        Args:
            pixels: RGB from 0 to 255, [B, 3, H, W], uint8 or float. The backbone normalises them.
            mask: bool [B, H, W], True = padding.

        Returns:
            One map [B, channels, H / stride, W / stride] per stride, finest first.
        """
        ...


class Neck(Protocol):
    """Brings the maps of a backbone to one width and adds levels (`modeling/neck.py`)."""

    def __call__(self, maps: Sequence[Tensor], mask: Tensor) -> FeaturePyramid:
        """maps: as the backbone returns them; mask: bool [B, H, W] -> L maps [B, C, h, w], their masks and image sizes.

        `modeling.neck.pyramid` makes the return value from the maps and the mask.
        """
        ...


class Encoder(Protocol):
    """Turns the pyramid into tokens that attention reads (`modeling/encoders/`)."""

    def __call__(self, pyramid: FeaturePyramid) -> Memory:
        """L maps [B, C, h, w] -> tokens [B, M, C] with M = sum of h * w.

        Every field of the memory is filled, because any query source and any decoder may read it.
        `modeling.encoders.tokens.pyramid_memory` fills them all from the pyramid and the positions of its cells.
        """
        ...


class QueryMaker(Protocol):
    """Makes all queries of a step: those of a source, and in training those of extra groups (`JoinedQueries`)."""

    @property
    def group_names(self) -> tuple[str, ...]:
        """The groups that need a supervision."""
        ...

    def __call__(self, memory: Memory, targets: PaddedTargets | None = None) -> Queries:
        """The queries, with their groups and attention mask. targets: given in training alone."""
        ...


class QuerySource(Protocol):
    """Makes the queries that are matched with objects (`modeling/queries/`); knows nothing of other groups.

    A config names it as `model.queries.source`; `JoinedQueries` adds the extra groups. References must be in [0, 1];
    detach them unless they are learned. Set `Queries.positions` if the decoder makes no query positions; the source is
    then a `PositionSource` too, where extra groups bring boxes of their own.

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


@runtime_checkable
class PositionSource(Protocol):
    """A query source that also makes query positions for the boxes of extra groups."""

    def positions(self, references: Tensor) -> Tensor:
        """Boxes [B, N, 4] -> [B, N, C]."""
        ...


class ContentSource(Protocol):
    """Makes the content half of a source's queries, in place of a learned embedding."""

    def __call__(self, memory: Memory, count: int) -> Content:
        """The content of the first `count` queries: values [B or 1, count, C], and losses of its own or None."""
        ...


class ExtraGroup(Protocol):
    """Adds a group of queries in training, e.g. denoising or one-to-many queries; an `nn.Module`.

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
        """Change the source's queries, in training and evaluation (DN-DETR marks them); most return them unchanged.

        A group that marks queries in their last channels says in a class attribute `reserved_channels` how many they
        are: a content source then leaves them at 0.
        """
        ...


class Decoder(Protocol):
    """Refines the queries stage by stage and predicts after each stage (`modeling/decoders/`)."""

    def __call__(self, queries: Queries, memory: Memory) -> StageOutputs:
        """Decode all queries of all groups together.

        Args:
            queries: content [B, N, C], references [B, N, 4 or 2], and which queries see each other.
            memory: tokens [B, M, C].

        Returns:
            logits [S, B, N, K] and boxes [S, B, N, 4], first stage first, queries in the order in which they came. S
            may change from step to step, but is the same on all processes: losses are normalised per stage.
        """
        ...


class ClassCost(Protocol):
    """The class part of the matching cost."""

    def __call__(self, pairs: Pairs) -> Tensor:
        """The cost of every pair of a prediction and an object, [S, B, T, N], at least float32."""
        ...


class CopiesRule(Protocol):
    """Decides how many queries each object gets."""

    def __call__(self, pairs: Pairs) -> Tensor:
        """int64 [S, B, T], on the device of the predictions; 0 for padded objects.

        `pairs.outputs` and `pairs.targets` are what the matcher was given; what it has computed of them for the costs
        is not computed again.
        """
        ...


class Matcher(Protocol):
    """Decides which object each query has, at every stage.

    The costs of all groups travel to the host together, while the losses of groups with known matches are computed:
    `supervision.matching.start_matching` calls `problems`, and `PendingMatches.finish` calls `assign`.
    """

    def problems(self, outputs: StageOutputs, targets: PaddedTargets) -> list[MatchingProblem]:
        """The costs, on the device."""
        ...

    def assign(self, cost: np.ndarray, problem: MatchingProblem, *, copies: np.ndarray | None, out: np.ndarray) -> None:
        """Solve one problem on the host; write the object's index of each query into out, int64 [S, b, N]."""
        ...


class LabelRule(Protocol):
    """Sets or changes the class targets of a group (`modeling/supervision/labels.py`).

    The first rule of a group (`model.criterion.groups.matching.labels`) sets the labels; the `adjustments` change
    them, one after another. A rule must not change its inputs, and its labels carry no gradient. For example, every
    query whose score is high already counts a little, as an adjustment `L(SoftNegatives)(share=0.1)`:

        class SoftNegatives:
            def __init__(self, *, share: float) -> None:
                self.share = share

            def __call__(self, outputs, targets, assignment):
                scores = outputs.logits.detach().sigmoid()  # [S, B, N, K]
                return replace(assignment, labels=torch.maximum(assignment.labels.to(scores), self.share * scores))
    """

    def __call__(self, outputs: StageOutputs, targets: PaddedTargets, assignment: Assignment) -> Assignment:
        """Return the assignment with other labels [S, B, N, K] (bool, or numbers in [0, 1]) or other box matches."""
        ...


class ClassLoss(Protocol):
    """The class loss of every stage."""

    def __call__(self, logits: Tensor, labels: Tensor, *, normalizer: Tensor) -> Tensor:
        """logits, labels: [S, B, N, K]; normalizer: [] or [S] -> [S]."""
        ...


class BoxLossFunction(Protocol):
    """The box losses of every stage, by kind."""

    @property
    def kinds(self) -> Sequence[str]:
        """The names of its losses, as the weights have them."""
        ...

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

    def supervision(self, group: str) -> object:
        """The supervision of a query group. Raises ValueError if there is none."""
        ...

    def __call__(self, groups: Sequence[GroupOutputs], targets: PaddedTargets) -> Losses:
        """groups: one GroupOutputs per query group."""
        ...


class Postprocess(Protocol):
    """Turns predictions into detections (`modeling/postprocess.py`); used in evaluation alone."""

    def __call__(self, outputs: StageOutputs, batch: ImageBatch) -> list[Detections]:
        """outputs: of the group "matching", of which the last stage counts -> one Detections per image, best first.

        Boxes are in pixels of each original image, whose sizes the batch has.
        """
        ...
