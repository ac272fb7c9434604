"""Dual cross-attention in detrex's own decoders, with one line in a detrex config.

A decoder of detrex builds its own layers, which are lists of attentions, norms and feed-forward networks. The node of
`with_dca` builds this decoder and then replaces the cross-attention of each layer by a `DualCrossAttention`. The rest
of the model uses the same decoder object, and initialises the new weights together with those of the decoder.

This module does not import detrex or detectron2.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from crossstage.config import LazyCall as L
from crossstage.config.names import dotted_name, locate
from crossstage.config.nodes import opaque
from dca.attention import DualCrossAttention

LAYER_NORM = L(nn.LayerNorm)(normalized_shape="${..embed_dim}")
"""The norm between the two attentions; its width is the decoder's `embed_dim`.

The interpolation is omegaconf's own form, because detectron2 also loads stored configs without importing this library,
so that `${up:...}` is not registered.
"""


def with_dca(model: Any, *, norm: Any = LAYER_NORM, chained: bool = True) -> Any:
    """Return a copy of a detrex model node whose decoder layers attend to the image twice.

    The node of the decoder keeps its keys and gets `decoder_class`, `dca_norm` and `dca_chained`.

    Args:
        model: a LazyConfig node with a `transformer.decoder` of BaseTransformerLayers (DINO, DN-DETR,
            Deformable-DETR, H-DETR, ...).
        norm: see `dca.DualCrossAttention`; a node or None.
        chained: see `dca.DualCrossAttention`.

    Returns:
        The changed copy.

    Raises:
        ValueError: for a model without such a node.
        TypeError: for a norm that is not a node.
    """
    if norm is not None and not (isinstance(norm, Mapping) and "_target_" in norm):
        raise TypeError(f"norm={norm!r}: expected a node that each layer builds, such as L(nn.LayerNorm)(...), or None")
    transformer = model.get("transformer") if isinstance(model, Mapping) else None
    if "_target_" not in ((transformer or {}).get("decoder") or {}):
        if isinstance(model, Mapping) and "layer" in (model.get("decoder") or {}):
            raise ValueError("this is a model of crossstage, not of detrex: use `from dca import with_dca`")
        raise ValueError("with_dca needs a detrex model node that has a `transformer.decoder`, such as projects/dino's")
    model = copy.deepcopy(model)
    decoder = model.transformer.decoder
    if norm is LAYER_NORM and "embed_dim" not in decoder:
        raise ValueError("transformer.decoder has no embed_dim for the norm's width; give norm=L(nn.LayerNorm)(...)")
    target = decoder["_target_"]
    if target is not dual_attention_decoder and target != dotted_name(dual_attention_decoder):
        # Otherwise with_dca was called before, and this call replaces its options.
        decoder.decoder_class = dotted_name(target) or target
        decoder["_target_"] = opaque(dual_attention_decoder)
    decoder.dca_norm, decoder.dca_chained = copy.deepcopy(norm), chained
    return model


def dual_attention_decoder(
    *, decoder_class: Any, dca_norm: nn.Module | None = None, dca_chained: bool = True, **arguments: Any
) -> nn.Module:
    """Build `decoder_class(**arguments)` and double its cross-attentions; the target of the node of `with_dca`.

    Args:
        decoder_class: a class or its dotted name.
        dca_norm: the norm, which is copied for each layer, or None.
        dca_chained: see `dca.DualCrossAttention`.
        **arguments: arguments of the class.

    Returns:
        The decoder.

    Raises:
        ImportError: if the class does not exist.
        TypeError: for a decoder with another kind of layers.
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
    """Replace each cross-attention of a BaseTransformerLayer by two attentions."""

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
    """A copy with newly drawn initial weights."""
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


def _plain_into_first(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Before weights are loaded: those of a plain cross-attention get the names of `first`, in place."""
    names = [name for name in state if name.startswith(prefix)]
    if not {f"{prefix}{name}" for name in module.state_dict()}.isdisjoint(names):
        return  # weights of a model with two attentions
    for name in names:
        state[f"{prefix}{DualCrossAttention.plain_part}.{name.removeprefix(prefix)}"] = state.pop(name)


class DetrexDualCrossAttention(DualCrossAttention):
    """`DualCrossAttention` with the signature of detrex's attentions, whose fourth argument is the residual.

    Weights of a detector without DCA load into `first`; `second` and `norm` are then missing keys, and keep their
    initial weights.
    """

    def __init__(self, *attentions: nn.Module, **options: Any) -> None:
        super().__init__(*attentions, **options)
        self.register_load_state_dict_pre_hook(_plain_into_first)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        identity: Tensor | None = None,
        *arguments: Any,
        **keywords: Any,
    ) -> Tensor:
        """Attend twice: `query` is [B, N, C] or [N, B, C], and so is the result; see the base class.

        `key` and `value` are the memory.
        """
        return super().forward(query, key, value, *arguments, identity=identity, **keywords)
