"""The deformable encoder: a feature pyramid becomes one sequence of tokens that have read each other."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from crossstage.config.stages import StageNode, stage_factories
from crossstage.modeling.encoders.tokens import pyramid_memory, token_places
from crossstage.modeling.layer_seams import CellPositions
from crossstage.structures import FeaturePyramid, Memory


class DeformableEncoder(nn.Module):
    """`num_layers` layers of multi-scale deformable self-attention over all levels (Deformable-DETR, section 4.1).

    layer: config node of a TransformerLayer, built once per layer.  position: module that embeds a mask's cells.
    """

    per_stage = ("layer",)

    def __init__(
        self, layer: StageNode, *, num_layers: int, position: CellPositions, embed_dim: int = 256, num_levels: int = 4
    ) -> None:
        super().__init__()
        (layer,) = stage_factories(self, layer=layer)
        self.position = position
        self.level_embeds = nn.Parameter(torch.empty(num_levels, embed_dim).normal_())
        self.layers = nn.ModuleList(layer(stage) for stage in range(num_layers))

    def forward(self, pyramid: FeaturePyramid) -> Memory:
        """L maps [B, C, h, w] -> memory of M = sum of h * w tokens."""
        memory = pyramid_memory(pyramid, self.positions(pyramid.masks))
        # an encoder query's reference is its own place, seen in the padded coordinates of each level [B, M, L, 2]
        references = token_places(memory.valid_ratios, memory.levels)[:, :, None] * memory.valid_ratios[:, None]
        for layer in self.layers:
            attention = {"memory": memory, "references": references, "position": memory.positions}
            memory = replace(memory, tokens=layer(memory.tokens, self_attn=attention))
        return memory

    def positions(self, masks: Sequence[Tensor]) -> list[Tensor]:
        """Positions of the cells plus a learned embedding of their level: L masks bool [B, h, w] -> L [B, C, h, w]."""
        return [
            self.position(mask, dtype=embed.dtype) + embed[:, None, None]
            for mask, embed in zip(masks, self.level_embeds, strict=True)
        ]
