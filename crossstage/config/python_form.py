"""A config as Python-like text, in black's layout."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from crossstage.config import yaml_form

_WIDTH = 88


@dataclass(frozen=True)
class _Group:
    """Something in brackets: each item has a head ("x=", '"key": ') and a body, which is text or a group."""

    opening: str
    items: list[tuple[str, Any]]
    closing: str

    def __str__(self) -> str:
        return f"{self.opening}{', '.join(f'{head}{body}' for head, body in self.items)}{self.closing}"


def to_py(cfg: DictConfig, prefix: str = "cfg.") -> str:
    """Write one assignment per value, such as `cfg.train.max_iter = 10`, and write nodes as calls.

    The text is for people. A value that is not a literal (for example a lambda) is described in words.

    Args:
        cfg: the config.
        prefix: text before each key.

    Returns:
        The assignments, one after the other.
    """
    try:
        values, _ = yaml_form.encode(cfg, resolve=True)
    except OmegaConfBaseException:  # a broken interpolation, or a value that is still missing
        values, _ = yaml_form.encode(cfg)
    lines: list[str] = []
    _assign(values, prefix, lines)
    return "".join(f"{line}\n" for line in lines)


def _assign(values: dict[Any, Any], prefix: str, lines: list[str]) -> None:
    for key, value in values.items():
        named = isinstance(key, str) and key.isidentifier()
        name = f"{prefix}{key}" if named else f"{prefix.removesuffix('.')}[{_literal(key)}]"
        if isinstance(value, dict) and value and not _special(value):
            _assign(value, f"{name}.", lines)
        else:
            lines.extend(_lay_out(f"{name} = ", _group(value), "", 0))


def _special(value: dict[Any, Any]) -> bool:
    return any(key in value for key in ("_target_", "_object_", "_pickled_"))


def _group(value: Any) -> Any:
    """Turn an encoded value into text or a group."""
    if isinstance(value, list):
        return _Group("[", [("", _group(item)) for item in value], "]")
    if not isinstance(value, dict):
        return _literal(value)
    if "_object_" in value or "_pickled_" in value:
        return str(value.get("_object_", value.get("_pickled_")))
    if "_target_" in value:
        target = value["_target_"]
        function = target if isinstance(target, str) else f"({_group(target)})"
        arguments = [(f"{key}=", _group(item)) for key, item in value.items() if key != "_target_"]
        return _Group(f"{function}(", arguments, ")")
    return _Group("{", [(f"{_literal(key)}: ", _group(item)) for key, item in value.items()], "}")


def _literal(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _lay_out(head: str, body: Any, tail: str, indent: int) -> list[str]:
    """The lines of one statement: a single line if it fits, otherwise with the outer brackets on separate lines."""
    space = " " * indent
    line = f"{space}{head}{body}{tail}"
    if len(line) <= _WIDTH or not isinstance(body, _Group) or not body.items:
        return [line]
    inner = f"{space}    {str(body)[len(body.opening) : -len(body.closing)]}"
    if body.opening.endswith("(") and len(inner) <= _WIDTH:  # black keeps the arguments of a call together
        middle = [inner]
    else:
        middle = [text for name, item in body.items for text in _lay_out(name, item, ",", indent + 4)]
    return [f"{space}{head}{body.opening}", *middle, f"{space}{body.closing}{tail}"]
