"""The YAML form of a config.

Containers, numbers, strings, None, sets, bytes and dates have YAML's own form, and interpolations are kept as text.
In addition, `_target_` is a dotted name; a class, function, enum member or torch dtype is `{_object_: NAME}`; a
dataclass instance is a node; a path is a string. A value without such a form is `{_pickled_: DESCRIPTION}`.
"""

from __future__ import annotations

import datetime
import re
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path, PurePath
from typing import Any, NoReturn

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf, SCMode

from crossstage.config.names import NameNotFoundError, dotted_name, locate
from crossstage.config.nodes import opaque
from crossstage.errors import InputError

_PLAIN = (str, bytes, bool, int, float, datetime.date, type(None))
# YAML 1.1 reads 1e-4 as a string; people write it as a number.
_FLOAT = re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][-+]?\d+)$")

_LINE_ENDS = set("\r\x85\u2028\u2029\ufeff")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which here reads 1e-4 as a number."""


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, which here quotes the string "1e-4" and repeats values instead of using anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, text: str) -> yaml.Node:
        """Write strings with unusual line ends in double quotes; in every other style PyYAML loses them."""
        return self.represent_scalar("tag:yaml.org,2002:str", text, style='"' if _LINE_ENDS & set(text) else None)


_Dumper.add_representer(str, _Dumper.represent_text)
for _yaml_class in (_Loader, _Dumper):
    _yaml_class.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


class NotInYaml:
    """Placeholder for a value that could not be stored in YAML; calling or instantiating it raises InputError."""

    def __init__(self, description: str, file: str, key: str) -> None:
        self.description = description
        self.file = file
        self.key = key

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        """Raise the InputError, which says where the value is."""
        raise InputError(
            f"{self.file}: {self.key} ({self.description}) cannot be stored in YAML; if you trust "
            f"{self.file}.pkl, read it with LazyConfig.load_pickle, or give a named function in a module instead"
        )


def encode(cfg: Any, *, resolve: bool = False) -> tuple[Any, list[str]]:
    """Turn a config into plain YAML values.

    Args:
        cfg: the config.
        resolve: whether interpolations are replaced by their values.

    Returns:
        The values, and the keys whose values have no YAML form.
    """
    lost: list[str] = []
    if isinstance(cfg, DictConfig | ListConfig):
        cfg = OmegaConf.to_container(cfg, resolve=resolve, structured_config_mode=SCMode.DICT_CONFIG)
    return _encode(cfg, "", lost), lost


def decode(value: Any, file: str) -> Any:
    """Turn the values of a YAML file into those of a config: the inverse of `encode`."""
    return _decode(value, file, "")


def dump(value: Any) -> str:
    """Write encoded values as YAML text, keys in their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def parse(text: str, file: Path) -> Any:
    """Read YAML text without executing anything. Raises InputError with file and line."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise InputError(f"{file}{line}: is not valid YAML ({problem}); correct the file") from error


def _encode(value: Any, key: str, lost: list[str]) -> Any:
    if isinstance(value, NotInYaml):
        lost.append(key)
        return {"_pickled_": value.description}
    if isinstance(value, dict):
        return {_plain_key(k): _encode_item(k, item, _below(key, k), lost) for k, item in value.items()}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return [_encode(item, _below(key, i), lost) for i, item in enumerate(value)]
    if isinstance(value, DictConfig):  # structured
        items = {k: value._get_node(k) for k in value}
        kept = {k: _encode(_raw(item), _below(key, k), lost) for k, item in items.items()}
        return {"_target_": dotted_name(OmegaConf.get_type(value)), **kept}
    numpy = sys.modules.get("numpy")  # if it is not imported, no value can be one of its scalars
    if numpy is not None and isinstance(value, numpy.generic):
        value = value.item()
    if type(value) in _PLAIN or isinstance(value, datetime.date):
        return value
    if isinstance(value, set) and all(type(item) in _PLAIN for item in value):
        return value
    if isinstance(value, PurePath):
        return str(value)
    name = dotted_name(value)
    if name is not None:
        return {"_object_": name}
    if is_dataclass(value) and all(field.init for field in fields(value)) and (name := dotted_name(type(value))):
        items = {f.name: getattr(value, f.name) for f in fields(value)}
        return {"_target_": name, **{k: _encode(item, _below(key, k), lost) for k, item in items.items()}}
    lost.append(key)
    named = getattr(value, "__qualname__", "")  # not the repr, which may hold an address that differs at each run
    return {"_pickled_": f"{type(value).__name__} {named}".strip()}


def _encode_item(name: Any, value: Any, key: str, lost: list[str]) -> Any:
    """Encode an item. A target becomes a plain dotted name, as in detectron2's files."""
    target = dotted_name(value) if name == "_target_" and callable(value) else None
    return target or _encode(value, key, lost)


def _raw(node: Any) -> Any:
    if isinstance(node, DictConfig | ListConfig):
        return OmegaConf.to_container(node, resolve=False, structured_config_mode=SCMode.DICT_CONFIG)
    return node._value()


def _plain_key(key: Any) -> Any:
    return key if type(key) in _PLAIN else str(key)


def _decode(value: Any, file: str, key: str) -> Any:
    if isinstance(value, dict) and len(value) == 1:
        (kind, content), *_ = value.items()
        special: dict[Any, Callable[[str, str, str], Any]] = {"_object_": _object, "_pickled_": NotInYaml}
        if kind in special and isinstance(content, str):
            return opaque(special[kind](content, file, key))
    if isinstance(value, dict):
        return {k: _decode(item, file, _below(key, k)) for k, item in value.items()}
    if isinstance(value, list):
        return [_decode(item, file, _below(key, i)) for i, item in enumerate(value)]
    return value


def _object(name: str, file: str, key: str) -> Any:
    try:
        return locate(name)
    except NameNotFoundError as error:
        raise InputError(f"{file}: {key}: _object_ {error}") from error


def _below(key: str, part: Any) -> str:
    if isinstance(part, int):
        return f"{key}[{part}]"
    return f"{key}.{part}" if key else str(part)
