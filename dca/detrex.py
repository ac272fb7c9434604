"""Dual cross-attention in detrex's own decoders: one line in a detrex config.

A decoder of detrex makes its layers itself; they are lists of attentions, norms and feed-forward networks. The node of
`with_dca` lets it do so and then puts a `DualCrossAttention` in the place of each layer's cross-attention. The rest of
the model builds on the same decoder object, and draws the new weights where it draws those of the decoder.

Neither detrex nor detectron2 is imported here.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from crossstage.config import LazyCall as L
from crossstage.config.names import dotted_name, locate
from dca.attention import DualCrossAttention

LAYER_NORM = L(nn.LayerNorm)(normalized_shape="${..embed_dim}")
"""The norm between the two attentions; its width is the decoder's `embed_dim`.

The interpolation is omegaconf's own: detectron2 also loads stored configs where nothing has registered `${up:...}`.
"""

_BUILDER = "dca.detrex.dual_attention_decoder"


def with_dca(model: Any, *, norm: Any = LAYER_NORM, chained: bool = True) -> Any:
    """Return a copy of a detrex model node whose decoder layers attend to the image twice.

    model: a LazyConfig node with a `transformer.decoder` of BaseTransformerLayers (DINO, DN-DETR, Deformable-DETR,
    H-DETR, ...).  norm, chained: of `dca.DualCrossAttention`; norm is a node or None. The decoder keeps its keys where
    they are; it gets three: `decoder_class`, `dca_norm` and `dca_chained`.
    Raises ValueError for a model without such a node and TypeError for a norm that is no node.
    """
    if norm is not None and not (isinstance(norm, Mapping) and "_target_" in norm):
        raise TypeError(f"norm={norm!r}: expected a node that each layer builds, such as L(nn.LayerNorm)(...), or None")
    transformer = model.get("transformer") if isinstance(model, Mapping) else None
    if "_target_" not in ((transformer or {}).get("decoder") or {}):
        raise ValueError("with_dca needs a detrex model node that has a `transformer.decoder`, such as projects/dino's")
    model = copy.deepcopy(model)
    decoder = model.transformer.decoder
    if norm is LAYER_NORM and "embed_dim" not in decoder:
        raise ValueError("transformer.decoder has no embed_dim for the norm's width; give norm=L(nn.LayerNorm)(...)")
    if decoder["_target_"] != _BUILDER:  # of an earlier with_dca: the last one decides
        decoder.decoder_class = dotted_name(decoder["_target_"]) or decoder["_target_"]
        decoder["_target_"] = _BUILDER
    decoder.dca_norm, decoder.dca_chained = copy.deepcopy(norm), chained
    return model


def dual_attention_decoder(
    *, decoder_class: Any, dca_norm: nn.Module | None = None, dca_chained: bool = True, **arguments: Any
) -> nn.Module:
    """What a node of `with_dca` builds: `decoder_class(**arguments)`, its cross-attentions doubled in place.

    decoder_class: a class or its dotted name.  dca_norm: copied for each layer.
    Raises ImportError for a class that is not there, TypeError for a decoder whose layers are of another kind.
    """
    build = locate(decoder_class) if isinstance(decoder_class, str) else decoder_class
    decoder = build(**arguments)
    for layer in getattr(decoder, "layers", [None]):
        if not (hasattr(layer, "operation_order") and hasattr(layer, "attentions")):
            raise TypeError(
                f"{type(decoder).__name__} has no layers with `operation_order` and `attentions`; dca.detrex "
                "doubles the cross-attentions of detrex's BaseTransformerLayer"
            )
        _double(layer, norm=dca_norm, chained=dca_chained)
    return decoder


class _DetrexLayer(Protocol):
    """What is used of detrex's BaseTransformerLayer."""

    operation_order: Sequence[str]
    attentions: nn.ModuleList


def _double(layer: _DetrexLayer, *, norm: nn.Module | None, chained: bool) -> None:
    """Put two attentions in the place of each cross-attention of a BaseTransformerLayer."""
    attentions = [name for name in layer.operation_order if name in ("self_attn", "cross_attn")]
    for index, name in enumerate(attentions):
        if name == "cross_attn":
            first = layer.attentions[index]
            layer.attentions[index] = DetrexDualCrossAttention(
                first, _redrawn(first), norm=copy.deepcopy(norm), chained=chained
            )


def _redrawn(attention: nn.Module) -> nn.Module:
    """A copy with initial weights of its own."""
    attention = copy.deepcopy(attention)
    for module in attention.modules():
        _call(module, "reset_parameters")
    _call(attention, "init_weights")  # MultiScaleDeformableAttention's offsets
    return attention


def _call(module: nn.Module, name: str) -> None:
    """Call a method, if the module has it."""
    method = getattr(module, name, None)
    if method is not None:
        method()


class DetrexDualCrossAttention(DualCrossAttention):
    """`DualCrossAttention` as detrex's layers call an attention: the residual comes fourth, by position."""

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        identity: Tensor | None = None,
        *arguments: Any,
        **keywords: Any,
    ) -> Tensor:
        """query: [B, N, C] or [N, B, C] -> the same shape. key, value: the memory; identity: see the base class."""
        return super().forward(query, key, value, *arguments, identity=identity, **keywords)
