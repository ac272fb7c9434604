"""The dense encoder: one feature map becomes tokens that have all read each other (DETR; DAB-DETR, section 4)."""

from torch import Tensor, nn

from crossstage.config.stages import stage_factories
from crossstage.layers.mlp import MLP, xavier_uniform_matrices_
from crossstage.modeling.encoders.deformable import valid_ratios
from crossstage.structures import FeaturePyramid, Levels, Memory


class DenseEncoder(nn.Module):
    """`num_layers` layers of standard self-attention over one map, with positions scaled by content (DAB-DETR).

    layer: config node of a TransformerLayer, built once per layer.  position: module that embeds a mask's cells.
    One MLP, shared by the layers, scales the positions by what the tokens hold; the decoder gets them unscaled.
    """

    per_stage = ("layer",)

    def __init__(self, layer, *, num_layers: int, position, embed_dim: int = 256) -> None:
        super().__init__()
        (layer,) = stage_factories(self, layer=layer)
        self.position = position
        self.position_scale = MLP(embed_dim, embed_dim, embed_dim, 2)
        self.layers = nn.ModuleList(layer(stage) for stage in range(num_layers))
        xavier_uniform_matrices_(self)

    def forward(self, pyramid: FeaturePyramid) -> Memory:
        """One map [B, C, h, w] -> memory of M = h * w tokens. Raises ValueError for more levels than one."""
        (features,), (mask,) = pyramid.maps, pyramid.masks
        tokens, padding = _tokens(features), mask.flatten(1)
        positions = _tokens(self.position(mask, dtype=self.position_scale.layers[0].weight.dtype))
        for layer in self.layers:
            scaled = positions * self.position_scale(tokens)
            tokens = layer(tokens, self_attn={"position": scaled, "padding_mask": padding})
        return Memory(
            tokens=tokens,
            mask=padding,
            levels=Levels.of(pyramid.shapes, like=positions),
            valid_ratios=valid_ratios(pyramid.masks, dtype=positions.dtype),
            positions=positions,
        )


def _tokens(features: Tensor) -> Tensor:
    """[B, C, h, w] -> [B, h * w, C], row-major."""
    return features.flatten(2).transpose(1, 2)
