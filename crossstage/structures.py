"""The values that flow through a detector, in the order of the data flow. Read this file first.

Letters, everywhere: **B** images, **S** stages (decoder layers), **N** queries, **K** classes, **T** objects of
an image, **M** memory tokens, **C** channels, **L** feature levels, **P** sampling points.

Boxes are normalised (cx, cy, w, h) in the *unpadded* image, unless the name says otherwise (`boxes_xyxy`,
`boxes_abs`). All of these are frozen: what a function needs changed, it returns anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


class _Movable:
    """`.to(...)` for a dataclass of tensors, tuples of tensors and other such dataclasses."""

    def to(
        self,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        non_blocking: bool = False,
    ):
        """Return a copy on `device`; `dtype` applies to the floating-point tensors alone."""
        return replace(
            self, **{f.name: _move(getattr(self, f.name), device, dtype, non_blocking) for f in fields(self)}
        )


def _move(value: Any, device: torch.device | str | None, dtype: torch.dtype | None, non_blocking: bool) -> Any:
    if isinstance(value, Tensor):
        dtype = dtype if value.is_floating_point() else None
        return value.to(device=device, dtype=dtype, non_blocking=non_blocking)
    if isinstance(value, _Movable):
        return value.to(device, dtype, non_blocking)
    if isinstance(value, tuple):
        return tuple(_move(item, device, dtype, non_blocking) for item in value)
    return value


@dataclass(frozen=True)
class Target(_Movable):
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
class ImageBatch(_Movable):
    """Images padded at the bottom and right to one size, and what is known of each.

    pixels: uint8 [B, 3, H, W], RGB, 0 in the padding.  mask: bool [B, H, W], True = padding.
    sizes: (height, width) of each unpadded network input.  original_sizes: (height, width) of each image file.
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
class PaddedTargets(_Movable):
    """The objects of a batch as three tensors; T is the largest number in an image, at least 0.

    labels: int64 [B, T], 0 in the padding.  boxes: [B, T, 4], 0 in the padding.  valid: bool [B, T].
    counts: the number of objects of each image, on the host, so that nobody asks the device for it.
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
class Levels(_Movable):
    """The sizes of L feature levels: for Python, and as tensors beside the features, so that no step waits for them.

    shapes: (height, width) of each level.  sizes: float [L, 2], (width, height).  starts: int64 [L], each level's
    first token.
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
class FeaturePyramid(_Movable):
    """Feature maps of the levels, finest first.

    maps: L tensors [B, C, h, w].  masks: L tensors bool [B, h, w], True = padding.
    image_sizes: [B, 2], (width, height) of each unpadded network input in pixels.
    """

    maps: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]
    image_sizes: Tensor | None = None

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of each level, as Python ints: no device is asked."""
        return tuple((level.shape[-2], level.shape[-1]) for level in self.maps)


@dataclass(frozen=True)
class Memory(_Movable):
    """The image as attention sees it: the tokens of all levels, finest level first, row-major inside a level.

    tokens: [B, M, C].  mask: bool [B, M], True = padding.  levels: their sizes.
    valid_ratios: [B, L, 2], the unpadded share (width, height) of each level.
    positions: [B, M, C], the position embedding of the tokens, where it has one.
    image_sizes: [B, 2], (width, height) of each unpadded network input in pixels, for who reasons in pixels.
    """

    tokens: Tensor
    mask: Tensor | None
    levels: Levels
    valid_ratios: Tensor | None = None
    positions: Tensor | None = None
    image_sizes: Tensor | None = None


@dataclass(frozen=True)
class QueryGroup(_Movable):
    """A named slice of the query axis that is supervised on its own.

    name: e.g. "matching", "denoising", "one_to_many", "proposals".  size: number of queries, contiguous on N.
    loss_name: how a loss is called, from its kind and stage, e.g. "{loss}_dn{stage}"; `stage` is "" for the last
    stage and "_0", "_1", ... before it.  matches: int64 [B, size], each query's object or -1, where they are known
    (denoising); None asks for matching.  copies: how many queries each object has in this group by design; the
    losses are divided by objects * copies.  block: queries that see each other, where a group is divided (0 = all).
    repeats: how many queries each object is matched with, where matches are not known; the objects count so often.
    Several numbers are those of the stages, the last one for all later stages (hybrid layer matching).
    class_agnostic: every object counts as class 0, for the class loss and for matching.
    """

    name: str
    size: int
    loss_name: str = "{loss}{stage}"
    matches: Tensor | None = None
    copies: int = 1
    block: int = 0
    repeats: int | tuple[int, ...] = 1
    class_agnostic: bool = False


@dataclass(frozen=True)
class StageOutputs(_Movable):
    """What the stages of a decoder predict.

    logits: [S, B, N, K].  boxes: [S, B, N, 4].  states: [S, B, N, C] query states that the heads read, and
    references: [S, B, N, 4 or 2] boxes as refined by each stage, where a decoder keeps them.
    """

    logits: Tensor
    boxes: Tensor
    states: Tensor | None = None
    references: Tensor | None = None

    @property
    def num_stages(self) -> int:
        """S."""
        return self.logits.shape[0]

    def split(self, sizes: Sequence[int]) -> list[StageOutputs]:
        """Cut the query axis into consecutive parts of the given sizes."""
        parts = {
            field.name: value.split(list(sizes), dim=2)
            for field in fields(self)
            if (value := getattr(self, field.name)) is not None
        }
        return [StageOutputs(**{name: part[i] for name, part in parts.items()}) for i in range(len(sizes))]


@dataclass(frozen=True)
class GroupOutputs(_Movable):
    """A query group with what was predicted for it; the criterion is one loop over these."""

    group: QueryGroup
    outputs: StageOutputs


@dataclass(frozen=True)
class Queries(_Movable):
    """What enters the decoder.

    content: [B, N, C].  references: [B, N, 4] (or [B, N, 2] points), without gradient unless learned.
    groups: the slices of N, in order; their sizes sum to N.  attention_mask: bool [N, N], True = the row's query may
    not attend to the column's, or None.  positions: [B, N, C] where query positions do not depend on the stage.
    proposals: the encoder's own predictions as a group (two-stage detectors).
    """

    content: Tensor
    references: Tensor
    groups: tuple[QueryGroup, ...]
    attention_mask: Tensor | None = None
    positions: Tensor | None = None
    proposals: GroupOutputs | None = None


@dataclass(frozen=True)
class Detections(_Movable):
    """The detections of one image, best first.

    boxes_xyxy: [D, 4] absolute corners in the original image.  scores: [D].  labels: int64 [D].
    """

    boxes_xyxy: Tensor
    scores: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.scores)
