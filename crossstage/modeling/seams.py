"""The seams of a detector: what a part of each kind is given, and what it returns. Letters as in `structures`.

`Detector` calls the parts in the order of this file. Any object with the signature of a Protocol can take the part's
place in a config; nothing has to be inherited or registered. A part with parameters must be an `nn.Module`, so that
they are trained, moved and saved; a part without may be a plain class with `__call__`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from torch import Tensor

from crossstage.structures import Detections, FeaturePyramid, ImageBatch, Memory, Queries, StageOutputs

State = TypeVar("State")
"""What one refinement step hands to the next; only the step reads it."""


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


class RefinementStep(Protocol[State]):
    """One stage of a decoder, for a decoder that applies the same step many times.

    `decoders.mixer.refine` and `decoders.deformable.attend` hold the arithmetic of the two families.
    """

    def start(self, queries: Queries, memory: Memory) -> State:
        """The state before the first step."""
        ...

    def __call__(self, state: State, memory: Memory, attention_mask: Tensor | None = None) -> tuple[State, Tensor]:
        """Refine once.

        Args:
            state: content with gradient; boxes, which the step detaches.
            memory: tokens [B, M, C].
            attention_mask: bool [N, N], True = the row's query may not attend to the column's.

        Returns:
            The next state, and logits [B, N, K].
        """
        ...

    def boxes(self, states: Sequence[State], memory: Memory) -> Tensor:
        """The boxes of S states, normalised cxcywh with gradient: [S, B, N, 4]."""
        ...


class Postprocess(Protocol):
    """Turns predictions into detections (`modeling/postprocess.py`); used in evaluation alone."""

    def __call__(self, outputs: StageOutputs, batch: ImageBatch) -> list[Detections]:
        """outputs: of the group "matching", of which the last stage counts -> one Detections per image, best first.

        Boxes are in pixels of each original image, whose sizes the batch has.
        """
        ...
