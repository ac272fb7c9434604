"""LazyConfig: a config is data (nodes that name a target and its arguments), loaded fresh from Python or YAML files.

- `nodes`: a call as data: `LazyCall`
- `like`: a node that differs from another in a few arguments
- `interpolation`: `${up:key}`, a value of an enclosing mapping
- `lazy`: `LazyConfig`: load, save and override configs
- `source`: runs a config file that is written in Python
- `yaml_form`: a config as YAML, which loads again
- `python_form`: a config as Python-like text, to read
- `override`: `key=value` on the command line
- `names`: from an importable object to its dotted name and back
- `instantiate`: from a node to the object that it describes
"""

from crossstage.config.instantiate import instantiate
from crossstage.config.lazy import LazyConfig, get_config
from crossstage.config.nodes import LazyCall

__all__ = ["LazyCall", "LazyConfig", "get_config", "instantiate"]
