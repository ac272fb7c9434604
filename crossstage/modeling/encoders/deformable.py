"""The deformable encoder: a feature pyramid becomes one sequence of tokens that have read each other."""

import torch
from torch import Tensor, nn

from crossstage.config.stages import stage_factories
from crossstage.structures import FeaturePyramid, Levels, Memory


def valid_ratios(masks: tuple[Tensor, ...], *, dtype: torch.dtype) -> Tensor:
    """Unpadded share (width, height) of each level by its first row and column: L bool [B, h, w] -> [B, L, 2]."""
    firsts = [((~mask[:, 0]).to(dtype), (~mask[:, :, 0]).to(dtype)) for mask in masks]
    return torch.stack([torch.stack([row.mean(-1), column.mean(-1)], dim=-1) for row, column in firsts], dim=1)


def token_places(ratios: Tensor, levels: Levels) -> Tensor:
    """The centre of each token's cell, (x, y) normalised by the unpadded image: ratios [B, L, 2] -> [B, M, 2]."""
    places = []
    for level, (height, width) in enumerate(levels.shapes):
        y = torch.arange(height, device=ratios.device, dtype=ratios.dtype) + 0.5
        x = torch.arange(width, device=ratios.device, dtype=ratios.dtype) + 0.5
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)
        places.append(grid / (ratios[:, level, None] * levels.sizes[level].to(ratios.dtype)))
    return torch.cat(places, dim=1)


class NoEncoder(nn.Module):
    """The pyramid as memory, for decoders that sample it themselves (AdaMixer). Padding is read as it is."""

    def forward(self, pyramid: FeaturePyramid) -> Memory:
        """L maps [B, C, h, w] -> memory of M = sum of h * w tokens, and the images' sizes."""
        return Memory(
            tokens=torch.cat([level.flatten(2).transpose(1, 2) for level in pyramid.maps], dim=1),
            mask=None,
            levels=Levels.of(pyramid.shapes, like=pyramid.image_sizes),
            image_sizes=pyramid.image_sizes,
        )


class DeformableEncoder(nn.Module):
    """`num_layers` layers of multi-scale deformable self-attention over all levels (Deformable-DETR, section 4.1).

    layer: config node of a TransformerLayer, built once per layer.  position: module that embeds a mask's cells.
    """

    per_stage = ("layer",)

    def __init__(self, layer, *, num_layers: int, position, embed_dim: int = 256, num_levels: int = 4) -> None:
        super().__init__()
        (layer,) = stage_factories(self, layer=layer)
        self.position = position
        self.level_embeds = nn.Parameter(torch.empty(num_levels, embed_dim).normal_())
        self.layers = nn.ModuleList(layer(stage) for stage in range(num_layers))

    def forward(self, pyramid: FeaturePyramid) -> Memory:
        """L maps [B, C, h, w] -> memory of M = sum of h * w tokens."""
        memory = self.flatten(pyramid)
        # an encoder query's reference is its own place, seen in the padded coordinates of each level [B, M, L, 2]
        references = token_places(memory.valid_ratios, memory.levels)[:, :, None] * memory.valid_ratios[:, None]
        tokens = memory.tokens
        for layer in self.layers:
            source = Memory(tokens, memory.mask, memory.levels)
            attention = {"memory": source, "references": references, "position": memory.positions}
            tokens = layer(tokens, self_attn=attention)
        return Memory(tokens, memory.mask, memory.levels, memory.valid_ratios, memory.positions)

    def flatten(self, pyramid: FeaturePyramid) -> Memory:
        """Concatenate the levels to tokens, with sine positions plus a learned embedding of the level."""
        dtype = self.level_embeds.dtype
        positions = [
            self.position(mask, dtype=dtype).flatten(2).transpose(1, 2) + embed
            for mask, embed in zip(pyramid.masks, self.level_embeds, strict=True)
        ]
        return Memory(
            tokens=torch.cat([level.flatten(2).transpose(1, 2) for level in pyramid.maps], dim=1),
            mask=torch.cat([mask.flatten(1) for mask in pyramid.masks], dim=1),
            levels=Levels.of(pyramid.shapes, like=self.level_embeds),
            valid_ratios=valid_ratios(pyramid.masks, dtype=dtype),
            positions=torch.cat(positions, dim=1),
        )
