"""The seams inside encoders and decoders: what the parts of a layer are given, and what they return.

As in `seams`, any object with the signature of a Protocol can take the part's place in a config. Letters as in
`structures`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import Field
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor

from crossstage.structures import Memory, Queries


class QueryState(Protocol):
    """What one refinement step hands to the next: a frozen dataclass of tensors [B, ...]. A field may be None."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def content(self) -> Tensor:
        """[B, N, C]."""
        ...


State = TypeVar("State", bound=QueryState)
"""The state of one kind of step; boxes in it are read by the step alone."""


class CellPositions(Protocol):
    """Embeds the cells of a padded map (`crossstage/layers/position.py`)."""

    def __call__(self, mask: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
        """mask: bool [B, h, w], True = padding -> [B, C, h, w] of this dtype; None: of the part's choice."""
        ...


class BoxPositions(Protocol):
    """Makes query positions from the queries' boxes, at each stage."""

    def __call__(self, references: Tensor) -> Tensor:
        """Normalised boxes [B, N, 4] -> [B, N, C]."""
        ...


class Head(Protocol):
    """Predicts from query states: logits (X = K) or box offsets (X = 4). A norm of states (X = C) is called alike."""

    def __call__(self, states: Tensor, /) -> Tensor:
        """[..., N, C] -> [..., N, X]."""
        ...


class Attention(Protocol):
    """One attention of a `TransformerLayer`, residual included."""

    def __call__(self, query: Tensor, *, identity: Tensor | None = None, **keywords: Any) -> Tensor:
        """Attend.

        Args:
            query: [B, N, C].
            identity: what is added instead of `query`, in a pre-norm layer.
            **keywords: what the encoder or decoder gives to this kind of attention, such as position and memory.

        Returns:
            [B, N, C].
        """
        ...


class FeedForward(Protocol):
    """The feed-forward network of a layer, residual included."""

    def __call__(self, features: Tensor, *, identity: Tensor | None = None) -> Tensor:
        """features: [B, N, C] -> [B, N, C]. identity: what is added instead of `features`, in a pre-norm layer."""
        ...


class AttentionLayer(Protocol):
    """One stage of a transformer (`modeling/transformer.py`)."""

    def __call__(
        self, query: Tensor, *, self_attn: dict[str, Any] | None = None, cross_attn: dict[str, Any] | None = None
    ) -> Tensor:
        """query: [B, N, C] -> [B, N, C]. self_attn, cross_attn: keywords of the layer's two attentions."""
        ...


class BoxAttention(Protocol):
    """Self-attention of queries that have boxes, residual included (`decoders.mixer.OverlapAttention`)."""

    def __call__(
        self, content: Tensor, vectors: Tensor, *, corners: Tensor | None = None, attention_mask: Tensor | None = None
    ) -> Tensor:
        """Let the queries read each other.

        Args:
            content: [B, N, C].
            vectors: (x, y, z, r), [B, N, 4].
            corners: (x1, y1, x2, y2) in pixels, [B, N, 4]; None uses those of `vectors`.
            attention_mask: bool [N, N], True = not attended.

        Returns:
            [B, N, C].
        """
        ...


class Sampler(Protocol):
    """Reads features around the box of each query (`decoders/point_sampler.py`)."""

    def __call__(self, content: Tensor, vectors: Tensor, memory: Memory) -> Tensor:
        """content: [B, N, C], vectors (x, y, z, r): [B, N, 4] -> features of G groups, [B, N, G, P, C / G]."""
        ...


class Mixing(Protocol):
    """Mixes the features that a query has sampled into its content, residual included."""

    def __call__(self, content: Tensor, features: Tensor, bank: tuple[Any, ...] = ()) -> tuple[Tensor, tuple[Any, ...]]:
        """Mix.

        Args:
            content: [B, N, C].
            features: [B, N, G, P, C / G].
            bank: what the mixings of earlier stages keep for later ones; only mixings read it.

        Returns:
            Content [B, N, C], and the bank with what this stage adds to it.
        """
        ...


class MixingLayer(Protocol):
    """One stage of a mixer decoder (`decoders.mixer.MixerLayer`)."""

    def __call__(
        self,
        content: Tensor,
        vectors: Tensor,
        *,
        memory: Memory,
        corners: Tensor | None,
        bank: tuple[Any, ...],
        attention_mask: Tensor | None,
    ) -> tuple[Tensor, tuple[Any, ...]]:
        """Update the content. Arguments as those of the layer's parts.

        Returns:
            Content [B, N, C], and the bank with what this stage adds to it.
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

    def noised(self, state: State, noise: Tensor, scale: float) -> State:
        """The state with `scale` pixels times the noise [B, N, 4] added to the corners of its boxes."""
        ...
