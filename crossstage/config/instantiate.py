"""From a config node to the object that it describes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from types import TracebackType
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from crossstage.config.names import NameNotFoundError, dotted_name, locate, suggestion
from crossstage.config.nodes import OBJECTS, as_config, is_structured, opaque
from crossstage.config.yaml_form import NotInYaml
from crossstage.errors import InputError

_RESERVED = ("_target_", "_recursive_")


class BuildError(InputError, TypeError, ValueError):
    """A node whose arguments or values do not fit its target; the message begins with the node's path."""


class TargetError(BuildError, ImportError):
    """A node whose `_target_` cannot be imported or called."""


def instantiate(cfg: Any) -> Any:
    """Build what a config describes.

    A node (a mapping with `_target_`: a dotted name, an object, or a node) is called with its other items as keyword
    arguments, which are built first. With `_recursive_: False` they are not: child nodes arrive as they are and the
    target builds them itself; the flag holds for this node alone. A list gives a list, omegaconf's form of a
    dataclass the dataclass, a DictConfig without target a DictConfig with its nodes built. All else is returned as
    it is. An interpolation that points to a node builds that node anew.

    Raises TargetError and BuildError, in one line that begins with the node's config path, for an unknown target, a
    wrong or missing argument, and a TypeError or ValueError of the target itself. Any other exception keeps its type
    and traceback; the path is added as a note and as its attribute `config_path`.
    """
    if isinstance(cfg, NotInYaml):
        cfg()
    if isinstance(cfg, ListConfig | list):
        return [instantiate(item) for item in _items(cfg)]
    if type(cfg) is tuple:
        return tuple(instantiate(item) for item in cfg)
    if isinstance(cfg, dict | DictConfig) and "_target_" in cfg:
        return _build(as_config(cfg))
    if is_structured(cfg):
        return OmegaConf.to_object(cfg)
    if isinstance(cfg, DictConfig) and _holds_node(cfg):
        items = {k: "???" if OmegaConf.is_missing(cfg, k) else opaque(instantiate(_read(cfg, k))) for k in cfg}
        return DictConfig(items, flags={**OBJECTS, "no_deepcopy_set_nodes": True})
    return cfg


def _build(cfg: DictConfig) -> Any:
    path = cfg._get_full_key(None)
    target = _target(cfg, path)
    build = instantiate if _read(cfg, "_recursive_", default=True) else _unbuilt
    arguments = {str(key): build(_read(cfg, key)) for key in cfg if key not in _RESERVED}
    try:
        return target(**arguments)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        problem = _argument_problem(target, arguments, path) if isinstance(error, TypeError) else None
        if problem is None and _raised_by_target(error):
            problem = f"{_place(path)}{_name(target)}: {_one_line(error)}"
        if problem is None:
            _annotate(error, path, target)
            raise
        raise BuildError(problem) from error
    except Exception as error:
        _annotate(error, path, target)
        raise


def _target(cfg: DictConfig, path: str) -> Callable[..., Any]:
    target = _read(cfg, "_target_")
    if is_structured(target):  # omegaconf turns an assigned dataclass into its structured form
        return OmegaConf.get_type(target)
    target = instantiate(target)
    if isinstance(target, str):
        try:
            target = locate(target)
        except NameNotFoundError as error:
            raise TargetError(f"{_place(path)}_target_ {error}") from error
    if not callable(target):
        raise TargetError(f"{_place(path)}_target_ must be a class or a function, got {target!r}")
    return target


def _read(cfg: DictConfig, key: Any, *, default: Any = None) -> Any:
    """Read an item with its interpolation resolved; a hole or a dangling interpolation is the config's mistake."""
    try:
        return cfg[key] if key in cfg or OmegaConf.is_missing(cfg, key) else default
    except MissingMandatoryValue as error:
        full = cfg._get_full_key(key)
        raise BuildError(f"{full}: a value is required here (???); give it as {full}=VALUE") from error
    except OmegaConfBaseException as error:
        raise BuildError(f"{cfg._get_full_key(key)}: {str(error).splitlines()[0]}") from error


def _items(cfg: ListConfig | list[Any]) -> list[Any]:
    """The items of a list, read as `_read` does."""
    try:
        return list(cfg)
    except OmegaConfBaseException as error:
        raise BuildError(str(error).splitlines()[0]) from error


def _unbuilt(value: Any) -> Any:
    """An argument for a target that builds its child nodes itself; nodes keep their parents."""
    if isinstance(value, NotInYaml):
        value()
    if isinstance(value, ListConfig):
        return [_unbuilt(item) for item in _items(value)]
    return OmegaConf.to_object(value) if is_structured(value) and "_target_" not in value else value


def _holds_node(cfg: Any) -> bool:
    if isinstance(cfg, NotInYaml) or is_structured(cfg):
        return True
    if isinstance(cfg, DictConfig):
        readable = [key for key in cfg if not OmegaConf.is_missing(cfg, key)]
        return "_target_" in cfg or any(_holds_node(_read(cfg, key)) for key in readable)
    if isinstance(cfg, ListConfig):
        return any(_holds_node(item) for item in _items(cfg))
    return False


def _argument_problem(target: Callable[..., Any], arguments: dict[str, Any], path: str) -> str | None:
    """Say which arguments do not fit the signature; None if they do, or if there is no signature."""
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):
        return None
    parameters = signature.parameters.values()
    by_name = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    names = [p.name for p in by_name]
    takes = f"It takes: {', '.join(names) or 'no arguments'}."
    if not any(p.kind == p.VAR_KEYWORD for p in parameters):
        for unknown in (name for name in arguments if name not in names):
            key = f"{path}.{unknown}" if path else unknown
            return f"{key}: {_name(target)} has no argument '{unknown}'. {takes}{suggestion(unknown, names)}"
    missing = [p.name for p in by_name if p.default is p.empty and p.name not in arguments]
    if missing:
        return f"{_place(path)}{_name(target)} lacks the argument {', '.join(map(repr, missing))}. {takes}"
    return None


def _raised_by_target(error: BaseException) -> bool:
    """Whether the target itself, or a constructor that it runs, refused a value.

    What comes from deeper, and a wrong call inside the constructor, is not the config's fault.
    """
    if isinstance(error, TypeError) and re.search(r"unexpected keyword|required (positional|keyword)", str(error)):
        return False
    frame: TracebackType | None = error.__traceback__
    names = []
    while frame is not None:
        names.append(frame.tb_frame.f_code.co_name)
        frame = frame.tb_next
    return all(name in ("__init__", "__post_init__", "__new__") for name in names[2:])


def _annotate(error: Exception, path: str, target: Callable[..., Any]) -> None:
    """Add the path of the innermost node to an exception that goes on as it is."""
    if hasattr(error, "config_path"):
        return
    error.config_path = path
    note = f"while building {_place(path)}{_name(target)}"
    if hasattr(error, "add_note"):
        error.add_note(note)
    elif len(error.args) == 1 and isinstance(error.args[0], str):  # Python 3.10 has no notes
        error.args = (f"{error.args[0]} ({note})",)


def _place(path: str) -> str:
    return f"{path}: " if path else ""


def _name(target: Any) -> str:
    return dotted_name(target) or repr(target)


def _one_line(error: Any) -> str:
    return " ".join(str(error).split()) or type(error).__name__
