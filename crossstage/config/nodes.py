"""Config nodes: a call as data. A node lists every argument that has a plain default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, cast

from omegaconf import AnyNode, DictConfig, ListConfig, OmegaConf

import crossstage.config.interpolation  # noqa: F401 (registers `${up:key}`)
from crossstage.config.names import locate
from crossstage.config.signatures import named_parameters, plain_defaults, signature_of, takes_any_keyword

CONFIG_MODULE = "config_file_"  # how the name of a config file begins, while it runs
OBJECTS = {"allow_objects": True}  # omegaconf's flag: values may be classes, functions and other Python objects


class LazyCall:
    """Makes a node: `LazyCall(Target)(argument=value)` is a DictConfig from which `instantiate` makes the call.

    Arguments are given by keyword; tuples become lists, as everywhere in omegaconf. The node also lists the target's
    other arguments with their defaults if these are plain data. All of them can therefore be overridden, and all are
    in config.yaml.

    Args:
        target: a class, a function, a dotted name, or a node whose object is called.

    Raises:
        TypeError: for a target that cannot be called, or that is defined in a config file.
    """

    def __init__(self, target: Any) -> None:
        if not (callable(target) or isinstance(target, str | DictConfig | dict)):
            raise TypeError(f"LazyCall needs a class, a function, a dotted name or a node, got {target!r}")
        if str(getattr(target, "__module__", "")).startswith(CONFIG_MODULE):
            raise TypeError(
                f"LazyCall({target.__name__}): defined in a config file, from where a stored config cannot import it; "
                f"define it in a module in the config's folder, and write: from my_module import {target.__name__}"
            )
        self._target = target

    def __call__(self, **arguments: Any) -> DictConfig:
        """Return the node."""
        return as_config(with_defaults({"_target_": self._target, **arguments}))


def is_call_of(node: Any, target: Any) -> bool:
    """Whether this is a node of the target, which a stored config has by its dotted name."""
    if not isinstance(node, Mapping):
        return False
    found = node.get("_target_")
    return (locate(found) if isinstance(found, str) else found) is target


def with_defaults(node: Mapping[str, Any]) -> dict[str, Any]:
    """The items of a node, followed by the plain defaults of its target for all other arguments."""
    defaults = plain_defaults(node["_target_"])
    return {**node, **{name: value for name, value in defaults.items() if name not in node}}


def set_target(node: DictConfig, target: Any) -> None:
    """Give a node another target, in place.

    Arguments that the new target lacks are removed if they hold the old target's default. The new target's defaults
    are added. All other arguments stay.

    Args:
        node: the node to change.
        target: the new target, as for `LazyCall`.
    """
    held = as_written(node)
    signature = signature_of(target)
    if not takes_any_keyword(signature):
        for name, default in plain_defaults(held.get("_target_")).items():
            if name not in named_parameters(signature) and name in held and held[name] == default:
                del node[name]
    node["_target_"] = target
    for name, default in plain_defaults(target).items():
        if name not in held:
            node[name] = as_config(default)


def as_config(value: Any) -> Any:
    """Turn a dict or list into its omegaconf container; any other value is returned unchanged.

    A dataclass instance inside is stored in omegaconf's form if an equal object can be restored from it, and
    otherwise as an opaque object.
    """
    if isinstance(value, DictConfig | ListConfig):
        return value
    if isinstance(value, dict):
        return DictConfig({key: _held(item) for key, item in value.items()}, flags=dict(OBJECTS))
    if isinstance(value, list):
        return ListConfig([_held(item) for item in value], flags=dict(OBJECTS))
    return value


def as_written(node: DictConfig) -> dict[str, Any]:
    """A node as dicts and lists, its interpolations unresolved."""
    return cast(dict[str, Any], OmegaConf.to_container(node, resolve=False))  # a dict, for a DictConfig


def opaque(value: Any) -> AnyNode:
    """Wrap an object so that a container holds it unchanged, without conversion into omegaconf's types."""
    return AnyNode(value, flags=dict(OBJECTS))


def is_structured(value: Any) -> bool:
    """Whether this is omegaconf's form of a dataclass instance."""
    return isinstance(value, DictConfig) and is_dataclass(OmegaConf.get_type(value))


def _held(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _held(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return [_held(item) for item in value]
    if isinstance(value, type):  # omegaconf would make a mapping of dict, list and of dataclass types
        return opaque(value)
    if not is_dataclass(value):
        return value
    try:
        structured = OmegaConf.structured(value, flags=dict(OBJECTS))
        return structured if OmegaConf.to_object(structured) == value else opaque(value)
    except Exception:  # a field that omegaconf cannot hold (a tensor), or an object that cannot be compared
        return opaque(value)
