"""LazyConfig: configs are data. Their nodes name a target and its arguments. They are loaded from Python or YAML files.

- `nodes`: a call as data: `LazyCall`
- `signatures`: the arguments and plain defaults of a target
- `interpolation`: `${up:key}`, a value of an enclosing mapping
- `like`: a node that differs from another in a few arguments
- `groups`: the supervisions of a model's node
- `instantiate`: from a node to the object that it describes
- `stages`: child nodes that are built once per stage
- `names`: from an importable object to its dotted name and back
- `lazy`: `LazyConfig`: load, save and override configs
- `find`: configs by their short names
- `source`: runs a config file that is written in Python
- `folders`: makes the folder of a config importable
- `yaml_form`: a config as YAML, which can be loaded again
- `python_form`: a config as Python-like text for people to read
- `override`: `key=value` on the command line

Nodes and their instantiation need only omegaconf. Files and overrides need more packages (hydra's grammar,
cloudpickle), so these names are imported on first use. `csla.detrex` and `dca.detrex` therefore run with only torch
and omegaconf installed.
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
