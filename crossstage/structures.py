"""The values that flow through a detector, in the order of the data flow. Read this file first.

Letters, everywhere: **B** images, **S** stages (decoder layers), **N** queries, **K** classes, **T** objects of
an image, **M** memory tokens, **C** channels, **L** feature levels, **P** sampling points.

Boxes are normalised (cx, cy, w, h) in the *unpadded* image, unless the name says otherwise (`boxes_xyxy`,
`boxes_abs`). All classes are frozen dataclasses: to change a value, return a new instance (`dataclasses.replace`).
Those of one step of the data flow raise ValueError for wrong shapes when they are built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from crossstage.detections import Detections as Detections  # the last value of the flow, in a file of its own
from crossstage.movable import Movable


def _expect(name: str, value: Tensor | None, letters: str, shape: tuple[int | None, ...]) -> None:
    """Raise ValueError unless a tensor has this shape; None in it fits any size, and no tensor fits too."""
    if value is None:
        return
    sizes = zip(shape, value.shape, strict=False)
    if value.ndim != len(shape) or any(size not in (None, found) for size, found in sizes):
        expected = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} has shape {tuple(value.shape)}; expected {letters} = ({expected})")


@dataclass(frozen=True)
class Target(Movable):
    """The objects of one image.

    labels: int64 [T], contiguous class indices.  boxes: float [T, 4], normalised cxcywh of the unpadded image.
    Raises ValueError if the shapes or the label dtype disagree; values are checked where data enters (crossstage.data).
    """

    labels: Tensor
    boxes: Tensor

    def __post_init__(self) -> None:
        if self.labels.ndim != 1 or self.boxes.shape != (len(self.labels), 4):
            shapes = f"{tuple(self.labels.shape)} and {tuple(self.boxes.shape)}"
            raise ValueError(f"Target needs labels [T] and boxes [T, 4], got {shapes}")
        if self.labels.dtype != torch.int64:
            raise ValueError(f"Target.labels must be int64, got {self.labels.dtype}")

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ImageBatch(Movable):
    """Images padded at the bottom and right to one size, and what is known of each.

    pixels: uint8 [B, 3, H, W], RGB, 0 in the padding.  mask: bool [B, H, W], True = padding.
    sizes, original_sizes: (height, width) of each unpadded network input, and of each image file.
    image_ids: the dataset's id of each image.  targets: one per image, or None where nothing is annotated.
    """

    pixels: Tensor
    mask: Tensor
    sizes: tuple[tuple[int, int], ...]
    original_sizes: tuple[tuple[int, int], ...]
    image_ids: tuple[int, ...] = ()
    targets: tuple[Target, ...] | None = None

    def __len__(self) -> int:
        return len(self.sizes)


@dataclass(frozen=True)
class PaddedTargets(Movable):
    """The objects of a batch as three tensors; T is the largest number in an image, at least 0.

    labels: int64 [B, T], 0 in the padding.  boxes: [B, T, 4], 0 in the padding.  valid: bool [B, T].
    counts: the number of objects of each image, on the host, so that no step waits for the device.
    """

    labels: Tensor
    boxes: Tensor
    valid: Tensor
    counts: tuple[int, ...]

    @classmethod
    def of(cls, targets: Sequence[Target]) -> PaddedTargets:
        """Pad one Target per image. Raises ValueError without any image."""
        if not targets:
            raise ValueError("PaddedTargets needs the targets of at least one image")
        valid = [torch.ones_like(target.labels, dtype=torch.bool) for target in targets]
        return cls(
            labels=pad_sequence([target.labels for target in targets], batch_first=True),
            boxes=pad_sequence([target.boxes for target in targets], batch_first=True),
            valid=pad_sequence(valid, batch_first=True),
            counts=tuple(len(target) for target in targets),
        )

    @property
    def num_objects(self) -> int:
        """Objects in the whole batch."""
        return sum(self.counts)


@dataclass(frozen=True)
class Levels(Movable):
    """Sizes of the L feature levels, as Python ints and as tensors on the features' device: no step copies them.

    shapes: (height, width) of each.  sizes: float [L, 2], (width, height).  starts: int64 [L], its first token.
    """

    shapes: tuple[tuple[int, int], ...]
    sizes: Tensor
    starts: Tensor

    @classmethod
    def of(cls, shapes: Sequence[tuple[int, int]], like: Tensor) -> Levels:
        """Describe levels with tensors of the dtype and device of `like`."""
        starts = [0, *accumulate(height * width for height, width in shapes)][:-1]
        sizes = torch.tensor([(width, height) for height, width in shapes], dtype=like.dtype)
        return cls(
            shapes=tuple(shapes),
            sizes=sizes.to(like.device, non_blocking=True),
            starts=torch.tensor(starts).to(like.device, non_blocking=True),
        )

    @property
    def tokens(self) -> tuple[int, ...]:
        """Number of tokens of each level; they sum to M."""
        return tuple(height * width for height, width in self.shapes)


@dataclass(frozen=True)
class FeaturePyramid(Movable):
    """Feature maps of the levels, finest first.

    maps: L tensors [B, C, h, w].  masks: L tensors bool [B, h, w], True = padding.
    image_sizes: [B, 2], (width, height) of each unpadded network input in pixels.
    """

    maps: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]
    image_sizes: Tensor

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of each level, as Python ints."""
        return tuple((level.shape[-2], level.shape[-1]) for level in self.maps)


@dataclass(frozen=True)
class Memory(Movable):
    """The image as attention sees it: the tokens of all levels, finest level first, row-major inside a level.

    Every encoder fills every field, so that every query source and decoder runs on every encoder.

    Attributes:
        tokens: [B, M, C].
        mask: bool [B, M], True = padding.
        levels: sizes of the levels; their tokens sum to M.
        valid_ratios: [B, L, 2], the unpadded share (width, height) of each level.
        positions: [B, M, C], the position embedding of the tokens.
        image_sizes: [B, 2], (width, height) of each unpadded network input in pixels.
    """

    tokens: Tensor
    mask: Tensor
    levels: Levels
    valid_ratios: Tensor
    positions: Tensor
    image_sizes: Tensor

    def __post_init__(self) -> None:
        _expect("Memory.tokens", self.tokens, "[B, M, C]", (None, None, None))
        batch, count, _ = self.tokens.shape
        if count != sum(self.levels.tokens):
            raise ValueError(f"Memory.tokens holds {count} tokens, its levels {self.levels.shapes} have others")
        _expect("Memory.mask", self.mask, "[B, M]", (batch, count))
        _expect("Memory.valid_ratios", self.valid_ratios, "[B, L, 2]", (batch, len(self.levels.shapes), 2))
        _expect("Memory.positions", self.positions, "[B, M, C]", (batch, count, None))
        _expect("Memory.image_sizes", self.image_sizes, "[B, 2]", (batch, 2))


@dataclass(frozen=True)
class Losses:
    """What a training step minimises, and what the log shows of it.

    Attributes:
        total: 0-d, the number that is minimised: the sum of the terms.
        terms: 0-d each, weighted, by their names in the log.
        metrics: 0-d each, detached: shown in the log, never minimised.
    """

    total: Tensor
    terms: Mapping[str, Tensor]
    metrics: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, terms: Mapping[str, Tensor], metrics: Mapping[str, Tensor] | None = None) -> Losses:
        """Sum up terms and detach metrics. Raises ValueError without a term, or if a name is both."""
        metrics = {name: value.detach() for name, value in (metrics or {}).items()}
        if not terms:
            raise ValueError("Losses needs at least one term")
        if both := sorted(terms.keys() & metrics.keys()):
            raise ValueError(f"these names are losses and metrics at once: {', '.join(both)}")
        return cls(torch.stack(list(terms.values())).sum(), dict(terms), metrics)

    def joined(self, *others: Losses | None) -> Losses:
        """These losses and those of other parts (None: nothing) as one. Raises ValueError if two use a name."""
        terms, metrics = dict(self.terms), dict(self.metrics)
        for other in (other for other in others if other is not None):
            if both := sorted((terms.keys() | metrics.keys()) & (other.terms.keys() | other.metrics.keys())):
                raise ValueError(f"two parts of the model give a loss or metric named {', '.join(both)}")
            terms |= other.terms
            metrics |= other.metrics
        return Losses.of(terms, metrics)


@dataclass(frozen=True)
class QueryGroup(Movable):
    """A named slice of the query axis that is supervised on its own.

    Attributes:
        name: e.g. "matching", "denoising", "one_to_many", "proposals"; its supervision is found by this name.
        size: number of queries, contiguous on N.
        matches: int64 [B, size], each query's object or -1, where they are known (denoising); None: to be matched.
        block: the group consists of blocks of so many queries that see each other; 0: one block, the whole group.
        sees: names of other groups that its queries may attend to; they always see their own block.
    """

    name: str
    size: int
    matches: Tensor | None = None
    block: int = 0
    sees: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _expect(f"QueryGroup({self.name!r}).matches", self.matches, f"[B, {self.size}]", (None, self.size))
        if self.block < 0 or (self.block and self.size % self.block):
            raise ValueError(f"QueryGroup({self.name!r}): blocks of {self.block} do not divide {self.size} queries")

    @property
    def num_blocks(self) -> int:
        """Blocks that the group consists of, at least 1."""
        return max(1, self.size // self.block) if self.block else 1


@dataclass(frozen=True)
class StageOutputs(Movable):
    """What the stages of a decoder predict.

    Attributes:
        logits: [S, B, N, K].
        boxes: [S, B, N, 4].
        states: [S, B, N, C], query states that the heads read, where a decoder keeps them.
        references: [S, B, N, 4 or 2], boxes as refined by each stage, where a decoder keeps them.
        losses: terms and metrics of the decoder's own, or None.
        names: what the log calls each stage; empty: "0", "1", ... The last stage has no suffix in the log.
    """

    logits: Tensor
    boxes: Tensor
    states: Tensor | None = None
    references: Tensor | None = None
    losses: Losses | None = None
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _expect("StageOutputs.logits", self.logits, "[S, B, N, K]", (None, None, None, None))
        leading = self.logits.shape[:3]
        _expect("StageOutputs.boxes", self.boxes, "[S, B, N, 4]", (*leading, 4))
        _expect("StageOutputs.states", self.states, "[S, B, N, C]", (*leading, None))
        _expect("StageOutputs.references", self.references, "[S, B, N, 4 or 2]", (*leading, None))
        if self.names and not len(self.names) == len(set(self.names)) == self.num_stages:
            raise ValueError(f"StageOutputs.names={self.names}; expected {self.num_stages} different names, or none")

    @property
    def num_stages(self) -> int:
        """S."""
        return self.logits.shape[0]

    def suffix(self, stage: int) -> str:
        """What the log appends to a stage's loss: "_0", "_1", ... or "_" and the stage's name; "" for the last one."""
        return "" if stage == self.num_stages - 1 else f"_{self.names[stage] if self.names else stage}"

    def split(self, sizes: Sequence[int]) -> list[StageOutputs]:
        """Cut the query axis into consecutive parts of the given sizes; without the decoder's own losses."""
        parts = {
            name: value.split(list(sizes), dim=2)
            for name in ("logits", "boxes", "states", "references")
            if (value := getattr(self, name)) is not None
        }
        cut = ({name: part[i] for name, part in parts.items()} for i in range(len(sizes)))
        return [StageOutputs(**part, names=self.names) for part in cut]


@dataclass(frozen=True)
class GroupOutputs(Movable):
    """A query group with what was predicted for it; the criterion is one loop over these."""

    group: QueryGroup
    outputs: StageOutputs


@dataclass(frozen=True)
class Assignment(Movable):
    """What the queries of a group are supervised with. Label rules fill and change it, one after another.

    Attributes:
        group: the group.
        matches: int64 [S, B, N], the object of each query at each stage, or -1.
        box_matches: int64 [S, B, N], the object that each query's box is regressed to, or -1.
        labels: [S, B, N, K] class targets, bool or numbers in [0, 1]; None before the first rule.
        label_stages: bool [S, S, B, N], at [i, j]: whether stage i takes the class of the object that stage j
            matched. None: each stage takes that of its own match.
    """

    group: QueryGroup
    matches: Tensor
    box_matches: Tensor
    labels: Tensor | None = None
    label_stages: Tensor | None = None


@dataclass(frozen=True)
class Queries(Movable):
    """What enters the decoder.

    Attributes:
        content: [B, N, C].
        references: [B, N, 4] boxes, or [B, N, 2] points, without gradient unless learned.
        groups: the slices of N, in order; their sizes sum to N.
        attention_mask: bool [N, N], True = the row's query may not attend to the column's; None: all see all.
        positions: [B, N, C], where query positions do not depend on the stage.
        proposals: the encoder's own predictions as a group (two-stage detectors).
        losses: terms and metrics of the query source's own, or None.
    """

    content: Tensor
    references: Tensor
    groups: tuple[QueryGroup, ...]
    attention_mask: Tensor | None = None
    positions: Tensor | None = None
    proposals: GroupOutputs | None = None
    losses: Losses | None = None

    def __post_init__(self) -> None:
        _expect("Queries.content", self.content, "[B, N, C]", (None, None, None))
        batch, count, _ = self.content.shape
        _expect("Queries.references", self.references, "[B, N, 4 or 2]", (batch, count, None))
        _expect("Queries.attention_mask", self.attention_mask, "[N, N]", (count, count))
        _expect("Queries.positions", self.positions, "[B, N, C]", (batch, count, None))
        sizes = {group.name: group.size for group in self.groups}
        if len(sizes) < len(self.groups) or sum(sizes.values()) != count:
            named = ", ".join(f"{group.name} {group.size}" for group in self.groups)
            raise ValueError(f"Queries has {count} queries in groups ({named}); expected other names or sizes")
