"""The decoder of the AdaMixer family: attention that knows overlaps, sampling around boxes, mixing, refinement."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from crossstage.config.stages import stage_factories
from crossstage.layers.attention import multi_head_attention
from crossstage.layers.mlp import xavier_uniform_matrices_
from crossstage.layers.position_vector import (
    IsotropicMoves,
    overlap_with_row,
    position_vector_embedding,
    to_normalised_boxes,
    to_position_vectors,
)
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

    def forward(self, content: Tensor, vectors: Tensor, *, attention_mask: Tensor | None = None) -> Tensor:
        """content: [B, N, C], vectors (x, y, z, r): [B, N, 4].  attention_mask: bool [N, N], True = not attended."""
        with torch.no_grad():
            place = position_vector_embedding(vectors, content.shape[-1]).to(content.dtype)
            log_overlap = (overlap_with_row(vectors) + 1e-7).log()
        placed = content + place
        bias = log_overlap[:, None] * self.overlap_scale[:, None, None].to(log_overlap.dtype)
        if attention_mask is not None:
            bias = bias.masked_fill(attention_mask, -torch.inf)
        query, key, value = self.qkv(placed).chunk(3, dim=-1)
        attended = multi_head_attention(query, key, value, num_heads=self.num_heads, bias=bias.to(query.dtype))
        return placed + self.out_proj(attended)


class MixerLayer(nn.Module):
    """One stage: self-attention, sampling and mixing, feed-forward; a norm behind each."""

    def __init__(
        self, embed_dim: int, *, attention: nn.Module, sampler: nn.Module, mixing: nn.Module, ffn: nn.Module
    ) -> None:
        super().__init__()
        self.attention, self.attention_norm = attention, nn.LayerNorm(embed_dim)
        self.sampler, self.mixing, self.mixing_norm = sampler, mixing, nn.LayerNorm(embed_dim)
        self.ffn, self.ffn_norm = ffn, nn.LayerNorm(embed_dim)

    def forward(
        self,
        content: Tensor,
        vectors: Tensor,
        *,
        memory: Memory,
        bank: tuple[Any, ...] = (),
        attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Any, ...]]:
        """content: [B, N, C], vectors: [B, N, 4].  bank: filters of earlier stages. Returns content and the bank."""
        content = self.attention_norm(self.attention(content, vectors, attention_mask=attention_mask))
        features = self.sampler(content, vectors, memory)
        content, bank = self.mixing(content, features, bank)
        content = self.mixing_norm(content)
        return self.ffn_norm(self.ffn(content)), bank


class NormedHead(nn.Sequential):
    """Linear, LayerNorm, ReLU, Linear: [..., embed_dim] -> [..., out_dim]. `prior`: where its scores start, if given;
    without it the head starts at 0, as offsets do."""

    def __init__(self, embed_dim: int, out_dim: int = 4, *, prior: float | None = None) -> None:
        super().__init__(
            nn.Linear(embed_dim, embed_dim), nn.LayerNorm(embed_dim), nn.ReLU(), nn.Linear(embed_dim, out_dim)
        )
        xavier_uniform_matrices_(self)
        last = self[-1]
        if prior is None:
            nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, 0.0 if prior is None else -math.log((1 - prior) / prior))


class MixerDecoder(nn.Module):
    """S stages, each with its own heads; boxes go from stage to stage without gradient, contents with it.

    layer, class_head, box_head: config nodes, each built once per stage; parts of the layer that take a `stage`
    receive the stage's index.  moves: how offsets refine a box.
    """

    per_stage = ("layer", "class_head", "box_head")

    def __init__(self, layer, *, num_layers: int, class_head, box_head, moves=None) -> None:
        super().__init__()
        layer, class_head, box_head = stage_factories(self, layer=layer, class_head=class_head, box_head=box_head)
        self.layers = nn.ModuleList(layer(stage) for stage in range(num_layers))
        self.class_heads = nn.ModuleList(class_head(stage) for stage in range(num_layers))
        self.box_heads = nn.ModuleList(box_head(stage) for stage in range(num_layers))
        self.moves = IsotropicMoves() if moves is None else moves

    def forward(self, queries: Queries, memory: Memory) -> StageOutputs:
        """Queries [B, N, C] with boxes [B, N, 4], memory with image sizes -> the predictions of S stages."""
        content, bank = queries.content, ()
        vectors = to_position_vectors(queries.references, memory.image_sizes)
        states, logits, moved = [], [], []
        for layer, class_head, box_head in zip(self.layers, self.class_heads, self.box_heads, strict=True):
            content, bank = layer(content, vectors, memory=memory, bank=bank, attention_mask=queries.attention_mask)
            states.append(content)
            logits.append(class_head(content).to(vectors.dtype))
            moved.append(self.moves(vectors, box_head(content).to(vectors.dtype)))
            vectors = moved[-1].detach()
        boxes = to_normalised_boxes(torch.stack(moved), memory.image_sizes)
        return StageOutputs(torch.stack(logits), boxes, states=torch.stack(states))
