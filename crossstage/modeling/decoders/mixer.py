"""The decoder of the AdaMixer family: attention that knows overlaps, sampling around boxes, mixing, refinement."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from crossstage.config.stages import StageNode, stage_factories
from crossstage.layers.attention import multi_head_attention
from crossstage.layers.boxes import cxcywh_to_xyxy
from crossstage.layers.mlp import xavier_uniform_matrices_
from crossstage.layers.position_vector import (
    IsotropicMoves,
    Moves,
    overlap_with_row,
    position_vector_embedding,
    to_normalised_boxes,
    to_position_vectors,
    vector_sizes,
    vectors_to_corners,
)
from crossstage.layers.sampling import with_shared_gradient
from crossstage.modeling.layer_seams import BoxAttention, FeedForward, Head, Mixing, MixingLayer, Sampler
from crossstage.modeling.recompute import recomputed
from crossstage.structures import Memory, Queries, StageOutputs


class OverlapAttention(nn.Module):
    """Self-attention whose logits favour queries that cover the attending one (AdaMixer, eq. 3); residual included.

    The positional embedding is added to queries, keys, values and to the residual, as in the released code.
    zero_output_bias: begin with the output's bias at 0 (StageInteractor), not as torch draws a Linear's (AdaMixer).
    """

    def __init__(self, embed_dim: int = 256, *, num_heads: int = 8, zero_output_bias: bool = False) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.out_proj = nn.Linear(embed_dim, embed_dim)
        self.overlap_scale = nn.Parameter(torch.rand(num_heads) * 4)
        xavier_uniform_matrices_(self)
        nn.init.zeros_(self.qkv.bias)
        if zero_output_bias:
            nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        content: Tensor,
        vectors: Tensor,
        *,
        corners: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Let the queries read each other.

        Args:
            content: [B, N, C].
            vectors: (x, y, z, r), [B, N, 4]; embedded as positions.
            corners: (x1, y1, x2, y2) in pixels, [B, N, 4], whose overlaps count; None uses those of `vectors`.
            attention_mask: bool [N, N], True = not attended.

        Returns:
            [B, N, C].
        """
        with torch.no_grad():
            place = position_vector_embedding(vectors, content.shape[-1]).to(content.dtype)
            if corners is None:
                overlap = overlap_with_row(vectors_to_corners(vectors), vector_sizes(vectors).prod(-1))
            else:
                overlap = overlap_with_row(corners)
            log_overlap = (overlap + 1e-7).log()
        placed = content + place
        bias = log_overlap[:, None] * self.overlap_scale[:, None, None].to(log_overlap.dtype)
        if attention_mask is not None:
            bias = bias.masked_fill(attention_mask, -torch.inf)
        query, key, value = self.qkv(placed).chunk(3, dim=-1)
        attended = multi_head_attention(query, key, value, num_heads=self.num_heads, bias=bias.to(query.dtype))
        return placed + self.out_proj(attended)


class MixerLayer(nn.Module):
    """One stage: self-attention, sampling and mixing, feed-forward; a norm follows each.

    recompute: whether training computes the inside of the layer again in the backward pass, which saves memory."""

    def __init__(
        self,
        embed_dim: int,
        *,
        attention: BoxAttention,
        sampler: Sampler,
        mixing: Mixing,
        ffn: FeedForward,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.recompute = recompute
        self.attention, self.attention_norm = attention, nn.LayerNorm(embed_dim)
        self.sampler, self.mixing, self.mixing_norm = sampler, mixing, nn.LayerNorm(embed_dim)
        self.ffn, self.ffn_norm = ffn, nn.LayerNorm(embed_dim)

    def forward(
        self,
        content: Tensor,
        vectors: Tensor,
        *,
        memory: Memory,
        corners: Tensor | None = None,
        bank: tuple[Any, ...] = (),
        attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Any, ...]]:
        """Update the queries' content.

        Args:
            content: [B, N, C].
            vectors: (x, y, z, r), [B, N, 4].
            memory: the feature pyramid to sample.
            corners: (x1, y1, x2, y2) in pixels, [B, N, 4], for the attention; None uses those of `vectors`.
            bank: filters of earlier stages.
            attention_mask: bool [N, N], True = not attended.

        Returns:
            Content [B, N, C], and the bank with what this stage adds to it.
        """
        attention = {"corners": corners, "attention_mask": attention_mask}
        return recomputed(self._run, content, vectors, memory, bank, attention, when=self.recompute)

    def _run(
        self, content: Tensor, vectors: Tensor, memory: Memory, bank: tuple[Any, ...], attention: dict[str, Any]
    ) -> tuple[Tensor, tuple[Any, ...]]:
        content = self.attention_norm(self.attention(content, vectors, **attention))
        features = self.sampler(content, vectors, memory)
        content, bank = self.mixing(content, features, bank)
        content = self.mixing_norm(content)
        return self.ffn_norm(self.ffn(content)), bank


class NormedHead(nn.Sequential):
    """Linear, LayerNorm, ReLU, Linear: [..., embed_dim] -> [..., out_dim]. `prior`: where its scores start, if given;
    without it the head starts at 0, as offsets do."""

    def __init__(self, embed_dim: int, out_dim: int = 4, *, prior: float | None = None) -> None:
        first, last = nn.Linear(embed_dim, embed_dim), nn.Linear(embed_dim, out_dim)
        super().__init__(first, nn.LayerNorm(embed_dim), nn.ReLU(), last)
        xavier_uniform_matrices_(self)
        if prior is None:
            nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, 0.0 if prior is None else -math.log((1 - prior) / prior))


@dataclass(frozen=True)
class BoxState:
    """What one refinement step hands to the next.

    Attributes:
        content: [B, N, C].
        vectors: boxes as (x, y, z, r) in pixels (`crossstage.layers.position_vector`), [B, N, 4].
        corners: the same boxes as (x1, y1, x2, y2) in pixels, [B, N, 4]. They differ from those of the vectors by
            `least_side`, and after noise, which may swap them. None: the corners of the vectors.
    """

    content: Tensor
    vectors: Tensor
    corners: Tensor | None = None


def refine(
    state: BoxState,
    layer: MixingLayer,
    class_head: Head,
    box_head: Head,
    moves: Moves,
    *,
    memory: Memory,
    bank: tuple[Any, ...] = (),
    attention_mask: Tensor | None = None,
) -> tuple[BoxState, Tensor, tuple[Any, ...]]:
    """One refinement step: the layer updates the content, the heads read it, the boxes move.

    The step starts from detached boxes, so that gradients go from step to step through the content alone.

    Args:
        state: content and boxes of the step before.
        layer: MixerLayer, called with its keywords.
        class_head: [B, N, C] -> logits [B, N, K].
        box_head: [B, N, C] -> offsets [B, N, 4].
        moves: how offsets move a box (IsotropicMoves, SideMoves).
        memory: the feature pyramid to sample.
        bank: filters of earlier stages.
        attention_mask: bool [N, N], True = the row's query may not attend to the column's.

    Returns:
        The new state, logits [B, N, K] in the dtype of the boxes, and the bank with what this step adds to it.
    """
    vectors = state.vectors.detach()
    corners = None if state.corners is None else state.corners.detach()
    content, bank = layer(
        state.content, vectors, memory=memory, corners=corners, bank=bank, attention_mask=attention_mask
    )
    logits = class_head(content).to(vectors.dtype)
    moved = moves(vectors, box_head(content).to(vectors.dtype))
    return BoxState(content, moved), logits, bank


def first_boxes(queries: Queries) -> Tensor:
    """The boxes [B, N, 4] of queries for a decoder whose first step detaches them.

    Raises:
        ValueError: if the references are points, or learned: the first step would detach them.
    """
    references = queries.references
    if references.shape[-1] != 4:
        raise ValueError(
            f"Queries.references have shape {tuple(references.shape)}, but this decoder refines boxes [B, N, 4]. Use a "
            "query source that gives boxes, for example BoxQueries or TwoStageQueries"
        )
    if references.requires_grad:
        raise ValueError(
            "Queries.references require gradients, but this decoder detaches boxes before each step: learned boxes "
            "would never change. Use a query source whose boxes are not learned, for example BoxQueries"
        )
    return references


def first_state(queries: Queries, memory: Memory, *, least_side: float = 0.0) -> BoxState:
    """The state before the first refinement step.

    Args:
        queries: content [B, N, C] and boxes [B, N, 4], without gradient.
        memory: its image sizes give the boxes in pixels.
        least_side: pixels added to the sides of the boxes before their logarithm; the corners stay those of the boxes.

    Raises:
        ValueError: if the references are points, or learned (`first_boxes`).
    """
    references = first_boxes(queries)
    vectors = to_position_vectors(references, memory.image_sizes, least_side=least_side)
    corners = cxcywh_to_xyxy(references) * memory.image_sizes.repeat(1, 2)[:, None] if least_side else None
    return BoxState(queries.content, vectors, corners)


class MixerDecoder(nn.Module):
    """S stages, each with its own heads; boxes go from stage to stage without gradient, contents with it.

    layer, class_head, box_head: config nodes, each built once per stage; parts of the layer that take a `stage`
    receive the stage's index.  moves: how offsets refine a box.
    least_side: pixels added to the sides of the queries' boxes before their logarithm.
    """

    per_stage = ("layer", "class_head", "box_head")

    def __init__(
        self,
        layer: StageNode,
        *,
        num_layers: int,
        class_head: StageNode,
        box_head: StageNode,
        moves: Moves | None = None,
        least_side: float = 0.0,
    ) -> None:
        super().__init__()
        layer, class_head, box_head = stage_factories(self, layer=layer, class_head=class_head, box_head=box_head)
        self.layers = nn.ModuleList(layer(stage) for stage in range(num_layers))
        self.class_heads = nn.ModuleList(class_head(stage) for stage in range(num_layers))
        self.box_heads = nn.ModuleList(box_head(stage) for stage in range(num_layers))
        self.moves: Moves = IsotropicMoves() if moves is None else moves
        self.least_side = least_side

    def forward(self, queries: Queries, memory: Memory) -> StageOutputs:
        """Refine the queries stage by stage.

        Args:
            queries: content [B, N, C] and boxes [B, N, 4], without gradient.
            memory: the feature pyramid, with image sizes.

        Returns:
            The predictions of S stages.

        Raises:
            ValueError: if the references are points, or learned: the first step would detach them.
        """
        memory = with_shared_gradient(memory)
        state, bank = first_state(queries, memory, least_side=self.least_side), ()
        mask, states, logits = queries.attention_mask, [], []
        for layer, class_head, box_head in zip(self.layers, self.class_heads, self.box_heads, strict=True):
            state, scores, bank = refine(
                state, layer, class_head, box_head, self.moves, memory=memory, bank=bank, attention_mask=mask
            )
            states.append(state)
            logits.append(scores)
        boxes = to_normalised_boxes(torch.stack([state.vectors for state in states]), memory.image_sizes)
        return StageOutputs(torch.stack(logits), boxes, states=torch.stack([state.content for state in states]))
