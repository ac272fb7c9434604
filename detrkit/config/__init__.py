"""LazyConfig: a config is data (nodes that name a target and its arguments), loaded fresh from Python or YAML files."""

from detrkit.config.instantiate import instantiate
from detrkit.config.lazy import LazyConfig, get_config
from detrkit.config.nodes import LazyCall

__all__ = ["LazyCall", "LazyConfig", "get_config", "instantiate"]
