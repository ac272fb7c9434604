"""Overrides on the command line, in Hydra's grammar.

- `a.b=1` sets an existing key, `+a.b=1` adds a key, `~a.b` deletes a key.
- `a.b={x:1}` sets keys of a mapping. If the value has a `_target_`, it replaces the node.
- Lists are indexed by number: `a.0.b=1`.
- A new `a._target_` adds its own defaults and removes those of the previous target.

The new value must fit the old one: a number for a number (also a list, if the target's annotation of the argument
names a kind of list), true or false for a bool, a mapping for a mapping. A quoted value (in a shell:
`"a.b='text'"`) is always a string and fits any scalar. Letters of any script, `~`, `&` and parentheses, as in paths,
need no quotes, although Hydra's grammar does not have them. null fits everything. A class or function is replaced by a
dotted name.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from crossstage.config.names import NameNotFoundError, dotted_name, locate, suggestion
from crossstage.config.nodes import as_config, set_target, with_defaults
from crossstage.config.signatures import takes_list
from crossstage.errors import InputError

_FOREIGN = re.compile(r"[^\x00-\x7f]|[~&()]")
_SPELLED = re.compile(r"xqz([0-9a-f]+)zqx")
_SHOWN = 12  # keys listed in a message


class OverrideKeyError(InputError, KeyError):
    """An override of a key that does not exist."""


class OverrideValueError(InputError, ValueError):
    """An override that does not follow the grammar, or whose value does not fit the key."""


def apply_overrides(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Apply overrides to a config in place, in their order. If one fails, those before it stay applied.

    Args:
        cfg: the config to change.
        overrides: such as "a.b=1"; see the module's description.

    Returns:
        `cfg`.

    Raises:
        OverrideKeyError: for an unknown key; the message names the existing keys and the nearest one.
        OverrideValueError: for a value that cannot be parsed or does not fit. Both messages are one line that begins
            with the override.
    """
    parser = OverridesParser.create()
    for text in overrides:
        try:
            _apply(cfg, _parsed(parser, text), text)
        except HydraException as error:
            reason = " ".join(str(error).split("\n")[0].split())
            raise OverrideValueError(
                f"{text}: is not an override ({reason}); write key=value, and put a value with special characters "
                "in quotes: \"key='a=b'\""
            ) from error
        except OmegaConfBaseException as error:
            reason = " ".join(str(error).split("\n")[0].split())
            raise OverrideValueError(f"{text}: {reason}") from error
    _check_references(cfg, overrides)
    return cfg


def _check_references(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """That what values refer to exists, once all overrides are applied: later it would fail in the middle of a run."""
    for text in overrides:
        key, _, value = text.partition("=")
        try:
            if "${" in value:
                OmegaConf.select(cfg, key.lstrip("+"), throw_on_missing=False)
        except OmegaConfBaseException as error:
            reason = " ".join(str(error).split("\n")[0].split())
            raise OverrideValueError(f"{text}: {reason}; write ${{KEY}} with the whole path of a key") from error


def _parsed(parser: OverridesParser, text: str) -> Override:
    """Parse an override. Characters of its value that the grammar does not have are replaced by words meanwhile."""
    try:
        return parser.parse_override(text)
    except HydraException:
        key, equals, value = text.partition("=")
        spelled = _FOREIGN.sub(lambda found: f"xqz{ord(found[0]):x}zqx", value)
        if spelled == value:
            raise
        override = parser.parse_override(key + equals + spelled)
        override._value = _as_written(override._value)
        return override


def _as_written(value: Any) -> Any:
    """The value with the words of `_parsed` turned back into characters."""
    if isinstance(value, str):
        return _SPELLED.sub(lambda found: chr(int(found[1], 16)), value)
    if isinstance(value, QuotedString):
        return QuotedString(text=_as_written(value.text), quote=value.quote)
    if isinstance(value, list):
        return [_as_written(item) for item in value]
    if isinstance(value, dict):
        return {_as_written(name): _as_written(item) for name, item in value.items()}
    return value


def _apply(cfg: DictConfig, override: Override, text: str) -> None:
    if override.is_sweep_override():
        raise OverrideValueError(f"{text}: gives several values; a list is written [a,b]")
    if not override.key_or_group:
        raise OverrideValueError(f"{text}: names no key; write key=value")
    *folders, last = override.key_or_group.split(".")
    adds = override.is_add() or override.is_force_add()
    parent, path = cfg, ""
    for folder in folders:
        parent = _child(parent, folder, path, text, adds=adds)
        path = _join(path, folder)
    key = _key(parent, last, path, text)
    if override.is_delete():
        _check_exists(parent, key, path, text)
        del parent[key]
    else:
        quoted = isinstance(override._value, QuotedString)
        _set(parent, key, override.value(), path, text, adds=adds, quoted=quoted)


def _child(parent: Any, name: str, path: str, text: str, *, adds: bool) -> Any:
    """The container below `parent`; if `adds` is true, a missing one is created."""
    key = _key(parent, name, path, text)
    if adds and (key not in parent or parent[key] is None):
        parent[key] = as_config({})
    else:
        _check_exists(parent, key, path, text)
    child = parent[key]
    if OmegaConf.is_interpolation(parent, key) and isinstance(child, DictConfig | ListConfig):
        # The override must change only the place that it names, not the place that the interpolation points to.
        parent[key] = copy.deepcopy(child)
        child = parent[key]
    if not isinstance(child, DictConfig | ListConfig):
        raise OverrideKeyError(f"{text}: {_join(path, name)} is {child!r}, not a mapping: it has no keys")
    return child


def _key(parent: Any, name: str, path: str, text: str) -> Any:
    """The key in the type of the container: an index for a list, a number if the keys of the mapping are numbers."""
    if isinstance(parent, ListConfig):
        if not name.isdecimal() or int(name) >= len(parent):
            raise OverrideKeyError(f"{text}: {path} is a list of {len(parent)}, '{name}' is not an index of it")
        return int(name)
    return int(name) if name.isdecimal() and name not in parent and int(name) in parent else name


def _check_exists(parent: Any, key: Any, path: str, text: str) -> None:
    if isinstance(parent, ListConfig) or key in parent or OmegaConf.is_missing(parent, key):
        return
    keys = [str(name) for name in parent if name != "_target_"]
    shown = ", ".join(keys[:_SHOWN]) + (", ..." if len(keys) > _SHOWN else "")
    hint = suggestion(str(key), keys, f"{path}." if path else "")
    if not hint:
        same = list(islice(_places(parent._get_root(), str(key)), 3))
        hint = f" There is {' and '.join(same)}." if same else ""
    add = "" if text.startswith("~") else f" (+{text.lstrip('+')} adds one)"
    raise OverrideKeyError(f"{text}: no such key. {path or 'The config'} has: {shown or 'nothing'}.{hint}{add}")


def _set(parent: Any, key: Any, value: Any, path: str, text: str, *, adds: bool = False, quoted: bool = False) -> None:
    exists = isinstance(parent, ListConfig) or key in parent or OmegaConf.is_missing(parent, key)
    if not exists and not adds:
        _check_exists(parent, key, path, text)
    old = _old_value(parent, key) if exists else None
    here = _join(path, str(key))
    if isinstance(old, DictConfig) and isinstance(value, dict) and "_target_" not in value:
        for name, item in value.items():
            _set(old, name, _plain(item), here, text, adds=adds, quoted=isinstance(item, QuotedString))
        return
    value = _plain(value)
    is_list_for_number = isinstance(value, list) and isinstance(old, int | float) and _takes_list(parent, key)
    if not (old is None or value is None or is_list_for_number or _is_interpolation(value)):
        value = _fitting(old, value, text, here, quoted=quoted, is_target=key == "_target_")
    if key == "_target_":
        set_target(parent, value)
    else:
        parent[key] = as_config(with_defaults(value) if isinstance(value, dict) and "_target_" in value else value)


def _fitting(old: Any, value: Any, text: str, here: str, *, quoted: bool, is_target: bool) -> Any:
    """The new value in the type of the old one. Raises OverrideValueError if this is not possible."""
    if isinstance(old, DictConfig):
        if isinstance(value, dict):
            return value
        keys = [key for key in map(str, old) if key != "_target_"]
        example = f"; set one of its keys, e.g. {here}.{keys[0]}=VALUE" if keys else ""
        raise OverrideValueError(f"{text}: {here} is a mapping{example}")
    if quoted and isinstance(old, bool | int | float):
        return value
    if isinstance(old, bool):
        if isinstance(value, bool) or value in (0, 1):
            return bool(value)
        raise OverrideValueError(f"{text}: {here} expects true or false (it is {old})")
    if isinstance(old, int | float):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise OverrideValueError(f"{text}: {here} expects a number, of type {type(old).__name__} (it is {old})")
        if isinstance(old, int):
            return int(value) if float(value).is_integer() else value
        return float(value)
    if isinstance(value, str) and not is_target and not isinstance(old, str) and dotted_name(old):
        try:
            return locate(value)
        except NameNotFoundError as error:
            raise OverrideValueError(f"{text}: {error}") from error
    return value


def _takes_list(parent: Any, key: Any) -> bool:
    """Whether a node's target accepts a list for an argument."""
    return isinstance(parent, DictConfig) and "_target_" in parent and takes_list(parent["_target_"], key)


def _old_value(parent: Any, key: Any) -> Any:
    """The value that is replaced, with interpolations resolved; None if it is missing or cannot be resolved."""
    try:
        return None if OmegaConf.is_missing(parent, key) else parent[key]
    except OmegaConfBaseException:
        return None


def _plain(value: Any) -> Any:
    """The value with Hydra's quoted strings turned into plain strings, inside lists and dicts too."""
    return Override._convert_value(value)


def _is_interpolation(value: Any) -> bool:
    return isinstance(value, str) and "${" in value


def _places(cfg: Any, name: str, path: str = "") -> Iterator[str]:
    """Paths of the keys of that name, anywhere in the config."""
    keys: Iterable[Any] = cfg if isinstance(cfg, DictConfig) else ()
    for key in keys:
        if key == name:
            yield _join(path, name)
        elif not OmegaConf.is_interpolation(cfg, key) and not OmegaConf.is_missing(cfg, key):
            yield from _places(cfg[key], name, _join(path, str(key)))


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
