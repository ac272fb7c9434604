"""LazyConfig: a config is data (nodes that name a target and its arguments), loaded fresh from Python or YAML files.

Nodes and their instantiation need omegaconf alone. Files and overrides need more (hydra's grammar, cloudpickle), so
those names are imported on first use: `csla.detrex` and `dca.detrex` run where only torch and omegaconf are installed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from crossstage.config.instantiate import instantiate
from crossstage.config.nodes import LazyCall

if TYPE_CHECKING:
    from crossstage.config.find import find_config
    from crossstage.config.lazy import LazyConfig, get_config

__all__ = ["LazyCall", "LazyConfig", "find_config", "get_config", "instantiate"]

_LATER = {"LazyConfig": "lazy", "find_config": "find", "get_config": "lazy"}


def __getattr__(name: str) -> Any:
    """Import a name of `_LATER` on first use (PEP 562)."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
