"""The dense encoder: one feature map becomes tokens that have all read each other (DETR; DAB-DETR, section 4)."""

from dataclasses import replace

from torch import nn

from crossstage.config.stages import StageNode, stage_factories
from crossstage.layers.mlp import MLP, xavier_uniform_matrices_
from crossstage.modeling.encoders.tokens import pyramid_memory
from crossstage.modeling.layer_seams import CellPositions
from crossstage.structures import FeaturePyramid, Memory


class DenseEncoder(nn.Module):
    """`num_layers` layers of standard self-attention over one map, with positions scaled by content (DAB-DETR).

    layer: config node of a TransformerLayer, built once per layer.  position: module that embeds a mask's cells.
    One MLP, shared by the layers, scales the positions by what the tokens hold; the decoder gets them unscaled.
    """

    per_stage = ("layer",)

    def __init__(self, layer: StageNode, *, num_layers: int, position: CellPositions, embed_dim: int = 256) -> None:
        super().__init__()
        (layer,) = stage_factories(self, layer=layer)
        self.position = position
        self.position_scale = MLP(embed_dim, embed_dim, embed_dim, 2)
        self.layers = nn.ModuleList(layer(stage) for stage in range(num_layers))
        xavier_uniform_matrices_(self)

    def forward(self, pyramid: FeaturePyramid) -> Memory:
        """One map [B, C, h, w] -> memory of M = h * w tokens. Raises ValueError for more levels than one."""
        if len(pyramid.maps) != 1:
            raise ValueError(
                f"DenseEncoder reads a pyramid of one level, but this one has {len(pyramid.maps)}. Use a neck of one "
                "level (SingleLevelProjection), or DeformableEncoder"
            )
        dtype = next(self.position_scale.parameters()).dtype
        memory = pyramid_memory(pyramid, [self.position(mask, dtype=dtype) for mask in pyramid.masks])
        for layer in self.layers:
            scaled = memory.positions * self.position_scale(memory.tokens)
            tokens = layer(memory.tokens, self_attn={"position": scaled, "padding_mask": memory.mask})
            memory = replace(memory, tokens=tokens)
        return memory
