"""One refinement of AdaMixer as a step that the equilibrium decoder repeats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from crossstage.layers.position_vector import (
    IsotropicMoves,
    Moves,
    corners_to_vectors,
    to_normalised_boxes,
    vectors_to_corners,
)
from crossstage.modeling.decoders.mixer import BoxState, first_state, refine
from crossstage.modeling.layer_seams import Head, MixingLayer
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
