"""`with_dca`: adds a second cross-attention to the decoder layers of an existing detector config."""

import copy
import re
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from crossstage.config import LazyCall as L
from crossstage.config.nodes import as_written
from dca.attention import DualCrossAttention

LAYER_NORM = L(nn.LayerNorm)(normalized_shape="${up:embed_dim}")
"""The norm between the two attentions; its width is the layer's `embed_dim`."""

_NAMES = (DualCrossAttention, "dca.DualCrossAttention", "dca.attention.DualCrossAttention")
_OUT_OF_THE_NODE = re.compile(r"\$\{[^}]*\.\.")  # `${..key}`, also inside the argument of a resolver


def with_dca(model: Any, *, norm: Any = LAYER_NORM, chained: bool = True) -> Any:
    """Return a copy of a model node whose decoder layers attend to the image twice.

    A DualCrossAttention replaces the attention's node, which becomes its `first`; a copy becomes its `second`. Nothing
    else changes: interpolations `${up:key}` find the same values one level deeper.

    Args:
        model: a LazyConfig node with a `decoder.layer.cross_attn`.
        norm: see `dca.DualCrossAttention`; a node or None.
        chained: see `dca.DualCrossAttention`.

    Returns:
        The changed copy.

    Raises:
        ValueError: for a model without such a node, for one that has two attentions already, and for an attention
            whose interpolations count levels, such as `${..key}`.
        TypeError: for a norm that is not a node.
    """
    if norm is not None and not (isinstance(norm, DictConfig) and "_target_" in norm):
        raise TypeError(f"norm={norm!r}: expected a node that each layer builds, such as L(nn.LayerNorm)(...), or None")
    model = copy.deepcopy(model)
    layer = OmegaConf.select(model, "decoder.layer")
    if not isinstance(layer, DictConfig) or layer.get("cross_attn") is None:
        if OmegaConf.select(model, "transformer.decoder") is not None:
            raise ValueError("this looks like a model of detrex: use `from dca.detrex import with_dca`")
        raise ValueError("with_dca needs a model node that has a `decoder.layer.cross_attn`, such as projects/dino's")
    if layer.cross_attn.get("_target_") in _NAMES:
        raise ValueError("decoder.layer.cross_attn is doubled already; change its `norm` and `chained` there")
    written = as_written(layer)["cross_attn"]
    _refuse_counted_levels(written, "decoder.layer.cross_attn")
    attention = written if isinstance(written, str) else layer.cross_attn  # keep an interpolation unresolved
    layer.cross_attn = L(DualCrossAttention)(first=attention, second=attention, norm=norm, chained=chained)
    return model


def _refuse_counted_levels(value: Any, path: str) -> None:
    """Raise ValueError for an interpolation that would find another value if it were one level deeper."""
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            _refuse_counted_levels(item, f"{path}.{key}")
    elif isinstance(value, str) and _OUT_OF_THE_NODE.search(value):
        raise ValueError(f"{path}={value}: with_dca moves this one level deeper; write ${{up:key}} instead of dots")
