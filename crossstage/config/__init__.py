"""LazyConfig: a config is data (nodes that name a target and its arguments), loaded fresh from Python or YAML files."""

from crossstage.config.instantiate import instantiate
from crossstage.config.lazy import LazyConfig, get_config
from crossstage.config.nodes import LazyCall

__all__ = ["LazyCall", "LazyConfig", "get_config", "instantiate"]
