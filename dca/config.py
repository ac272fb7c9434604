"""`with_dca`: an existing detector config whose decoder layers have two cross-attentions."""

import copy
import re
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from crossstage.config import LazyCall as L
from dca.attention import DualCrossAttention

LAYER_NORM = L(nn.LayerNorm)(normalized_shape="${...embed_dim}")
"""The norm between the two attentions; its width is the layer's `embed_dim`, two levels above it."""

_NAMES = (DualCrossAttention, "dca.DualCrossAttention", "dca.attention.DualCrossAttention")

# `${..key}`, not `\${..key}`; also what omegaconf's resolvers that take a key look up
_RELATIVE = re.compile(r"(?<!\\)((?:\\\\)*\$\{\s*(?:oc\.(?:select|dict\.keys|dict\.values)\s*:\s*)?)(\.+)")


def with_dca(model: Any, *, norm: Any = LAYER_NORM, chained: bool = True) -> Any:
    """Return a copy of a model node whose decoder layers attend to the image twice.

    model: a LazyConfig node with a `decoder.layer.cross_attn`.  norm, chained: of `dca.DualCrossAttention`; norm is a
    node or None. The attention's node becomes `first` and, copied, `second` of a DualCrossAttention in its place; its
    relative interpolations go on pointing where they did. Nothing else changes.
    Raises ValueError for a model without such a node and for one that is doubled already, TypeError for a norm that
    is no node.
    """
    if norm is not None and not (isinstance(norm, DictConfig) and "_target_" in norm):
        raise TypeError(f"norm={norm!r}: expected a node that each layer builds, such as L(nn.LayerNorm)(...), or None")
    model = copy.deepcopy(model)
    layer = OmegaConf.select(model, "decoder.layer")
    if not isinstance(layer, DictConfig) or layer.get("cross_attn") is None:
        raise ValueError("with_dca needs a model node that has a `decoder.layer.cross_attn`, such as projects/dino's")
    if layer.cross_attn.get("_target_") in _NAMES:
        raise ValueError("decoder.layer.cross_attn is doubled already; change its `norm` and `chained` there")
    if norm is LAYER_NORM and "embed_dim" not in layer:
        raise ValueError("decoder.layer has no embed_dim for the norm's width; give norm=L(nn.LayerNorm)(...)")
    first = _one_level_down(layer, "cross_attn")
    layer.cross_attn = L(DualCrossAttention)(first=first, second=first, norm=norm, chained=chained)
    return model


def _one_level_down(layer: DictConfig, name: str) -> Any:
    """A copy of an item for a place one mapping deeper; an item that is an interpolation stays one."""
    item = layer._get_node(name)
    if OmegaConf.is_interpolation(layer, name):
        return _with_longer_way(item._value(), depth=-1)
    item = copy.deepcopy(item)
    _lengthen_ways_out(item, depth=0)
    return item


def _lengthen_ways_out(container: DictConfig | ListConfig, *, depth: int) -> None:
    """Adapt, in place, the interpolations of a container that lies `depth` containers inside the moved node."""
    for key in list(container) if isinstance(container, DictConfig) else range(len(container)):
        item = container._get_node(key)
        value = item._value()
        if isinstance(value, str):
            moved = _with_longer_way(value, depth=depth)
            if moved != value:
                container[key] = moved
        elif isinstance(item, DictConfig | ListConfig) and value is not None:
            _lengthen_ways_out(item, depth=depth + 1)


def _with_longer_way(text: str, *, depth: int) -> str:
    """One dot more where an interpolation leaves the moved node: n dots are n - 1 containers up."""
    return _RELATIVE.sub(lambda found: found[0] + "." * (len(found[2]) > depth + 1), text)
