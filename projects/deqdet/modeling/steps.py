"""Steps that the equilibrium decoder repeats: a layer of AdaMixer or of Deformable-DETR, with its heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from crossstage.layers.boxes import cxcywh_to_xyxy, refine_boxes, xyxy_to_cxcywh
from crossstage.layers.position_vector import (
    IsotropicMoves,
    Moves,
    corners_to_vectors,
    to_normalised_boxes,
    vectors_to_corners,
)
from crossstage.modeling.decoders.deformable import attend
from crossstage.modeling.decoders.mixer import BoxState, first_boxes, first_state, refine
from crossstage.modeling.layer_seams import AttentionLayer, BoxPositions, Head, MixingLayer
from crossstage.structures import Memory, Queries


class MixerStep(nn.Module):
    """A mixer layer with its heads; boxes are detached on entry, the content is not.

    Args:
        layer: MixerLayer.
        class_head: content [B, N, C] -> logits [B, N, K].
        box_head: content [B, N, C] -> offsets [B, N, 4].
        moves: how offsets move a box; None: IsotropicMoves.
        least_side: pixels added to the sides of a box before their logarithm.

    Raises:
        ValueError: if the layer's mixing takes filters over from earlier stages: one step has none before it.
    """

    def __init__(
        self,
        *,
        layer: MixingLayer,
        class_head: Head,
        box_head: Head,
        moves: Moves | None = None,
        least_side: float = 1e-7,
    ) -> None:
        super().__init__()
        mixing = getattr(layer, "mixing", None)
        if getattr(mixing, "reuses_filters", False):
            raise ValueError(
                f"layer.mixing is a {type(mixing).__name__}, which reuses filters of earlier stages, but all steps of "
                "an equilibrium share their weights. Use AdaptiveMixing"
            )
        self.layer, self.class_head, self.box_head = layer, class_head, box_head
        self.moves = IsotropicMoves() if moves is None else moves
        self.least_side = least_side

    def start(self, queries: Queries, memory: Memory) -> BoxState:
        """The state before the first step. Raises ValueError if the references are points or learned."""
        return first_state(queries, memory, least_side=self.least_side)

    def forward(self, state: BoxState, memory: Memory, attention_mask: Tensor | None = None) -> tuple[BoxState, Tensor]:
        """Refine once: the next state, and logits [B, N, K]. attention_mask: bool [N, N], True = not attended."""
        state, logits, _ = refine(
            state,
            self.layer,
            self.class_head,
            self.box_head,
            self.moves,
            memory=memory,
            attention_mask=attention_mask,
        )
        return state, logits

    def boxes(self, states: Sequence[BoxState], memory: Memory) -> Tensor:
        """The boxes of S states, normalised cxcywh: [S, B, N, 4]."""
        return to_normalised_boxes(torch.stack([state.vectors for state in states]), memory.image_sizes)

    def noised(self, state: BoxState, noise: Tensor, scale: float) -> BoxState:
        """Add `scale` pixels times the noise [B, N, 4] to the corners.

        The corners may be swapped afterwards: attention reads them as they are, the vectors hold the sorted box.
        """
        corners = vectors_to_corners(state.vectors) if state.corners is None else state.corners
        corners = corners + scale * noise
        return replace(state, vectors=corners_to_vectors(corners, least_side=self.least_side), corners=corners)


@dataclass(frozen=True)
class ReferenceState:
    """What one `DeformableStep` hands to the next.

    Attributes:
        content: [B, N, C].
        references: normalised cxcywh boxes, [B, N, 4].
        image_sizes: [B, 2], (width, height) of each image in pixels, the unit of noise; the same at every step.
    """

    content: Tensor
    references: Tensor
    image_sizes: Tensor


class DeformableStep(nn.Module):
    """A layer of Deformable-DETR with its heads; boxes are detached on entry, the content is not.

    The arithmetic is that of one stage of `DeformableDecoder` without look-forward-twice, with one exception: if there
    is a norm, that decoder hands on boxes for which the box head read the content without it. Here the predicted boxes
    go on.

    Args:
        layer: TransformerLayer with deformable cross-attention.
        class_head: content [B, N, C] -> logits [B, N, K].
        box_head: content [B, N, C] -> offsets [B, N, 4].
        query_positions: makes the positions of queries from their boxes, at every step.
        norm: what both heads read the content through; the content goes on without it. None: no norm.
    """

    def __init__(
        self,
        *,
        layer: AttentionLayer,
        class_head: Head,
        box_head: Head,
        query_positions: BoxPositions,
        norm: Head | None = None,
    ) -> None:
        super().__init__()
        self.layer, self.class_head, self.box_head = layer, class_head, box_head
        self.query_positions = query_positions
        self.norm = nn.Identity() if norm is None else norm

    def start(self, queries: Queries, memory: Memory) -> ReferenceState:
        """The state before the first step. Raises ValueError if the references are points or learned."""
        return ReferenceState(queries.content, first_boxes(queries), memory.image_sizes)

    def forward(
        self, state: ReferenceState, memory: Memory, attention_mask: Tensor | None = None
    ) -> tuple[ReferenceState, Tensor]:
        """Refine once: the next state, and logits [B, N, K]. attention_mask: bool [N, N], True = not attended."""
        references = state.references.detach()
        content = attend(
            self.layer,
            state.content,
            references,
            memory=memory,
            query_positions=self.query_positions,
            attention_mask=attention_mask,
        )
        read = self.norm(content)
        logits = self.class_head(read).to(references.dtype)
        refined = refine_boxes(references, self.box_head(read))
        return replace(state, content=content, references=refined), logits

    def boxes(self, states: Sequence[ReferenceState], memory: Memory) -> Tensor:
        """The boxes of S states, normalised cxcywh: [S, B, N, 4]."""
        return torch.stack([state.references for state in states])

    def noised(self, state: ReferenceState, noise: Tensor, scale: float) -> ReferenceState:
        """Add `scale` pixels times the noise [B, N, 4] to the corners, and sort and clamp them to the image."""
        pixels = state.image_sizes.repeat(1, 2)[:, None]  # [B, 1, 4]
        moved = (cxcywh_to_xyxy(state.references) + scale * noise / pixels).clamp(0, 1)
        first, second = moved.chunk(2, dim=-1)
        corners = torch.cat([torch.minimum(first, second), torch.maximum(first, second)], dim=-1)
        return replace(state, references=xyxy_to_cxcywh(corners))
