"""Builds the object that a config node describes."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import TracebackType
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from crossstage.config.names import NameNotFoundError, dotted_name, locate, suggestion
from crossstage.config.nodes import OBJECTS, as_config, is_structured, opaque
from crossstage.config.signatures import STAGE, named_parameters, signature_of, takes_any_keyword
from crossstage.config.stages import NodeNeededError, StageFactory, stage_factory
from crossstage.config.yaml_form import NotInYaml
from crossstage.errors import InputError


class BuildError(InputError, TypeError, ValueError):
    """A node whose arguments or values do not fit its target; the message begins with the node's path."""


class TargetError(BuildError, ImportError):
    """A node whose `_target_` cannot be imported or called."""


def instantiate(cfg: Any, *, stage: int | None = None) -> Any:
    """Build what a config describes.

    A node is a mapping with the key `_target_`, whose value is a dotted name, an object or another node. The other
    items of the node are built first; then the target is called with them as keyword arguments. Arguments that the
    target lists in its attribute `per_stage` are not built: for each of them the target receives a StageFactory, with
    which it builds the node once per stage. A list gives a list; omegaconf's form of a dataclass gives the dataclass;
    a DictConfig without `_target_` gives a DictConfig whose nodes are built. Any other value is returned unchanged.
    An interpolation that points to a node builds this node a second time.

    Args:
        cfg: the config.
        stage: passed to all targets that have a parameter `stage`, at any depth; None outside a stage.

    Returns:
        The object, list or container.

    Raises:
        BuildError: for an unknown target (TargetError), a wrong or missing argument, and a TypeError or ValueError
            that the target raises itself. The message is one line that begins with the config path of the node. Any
            other exception keeps its type and traceback; the path is added as a note and as `config_path`.
    """
    if isinstance(cfg, NotInYaml):
        cfg()
    if isinstance(cfg, ListConfig | list):
        return [instantiate(item, stage=stage) for item in _items(cfg)]
    if type(cfg) is tuple:
        return tuple(instantiate(item, stage=stage) for item in cfg)
    if isinstance(cfg, dict | DictConfig) and "_target_" in cfg:
        return _build(as_config(cfg), stage)
    if is_structured(cfg):
        return OmegaConf.to_object(cfg)
    if isinstance(cfg, DictConfig) and _holds_node(cfg):
        items = {
            k: "???" if OmegaConf.is_missing(cfg, k) else opaque(instantiate(_read(cfg, k), stage=stage)) for k in cfg
        }
        return DictConfig(items, flags={**OBJECTS, "no_deepcopy_set_nodes": True})
    return cfg


def _build(cfg: DictConfig, stage: int | None) -> Any:
    path = cfg._get_full_key(None)
    _refuse_flags(cfg, stage)
    target = _target(cfg, path)
    arguments = _arguments(cfg, target, path, stage)
    try:
        return target(**arguments)
    except NodeNeededError as error:
        raise BuildError(f"{_place(path)}{error}") from error
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


def _refuse_flags(cfg: DictConfig, stage: int | None) -> None:
    """Raise BuildError for keys with which older configs declared what is built per stage."""
    if "_recursive_" in cfg:
        key = cfg._get_full_key("_recursive_")
        raise BuildError(
            f"{key}: no longer a key; delete it: a class says itself what it builds per stage (`per_stage`)"
        )
    if stage is not None and STAGE in cfg:
        key = cfg._get_full_key(STAGE)
        raise BuildError(f"{key}: cannot be set; delete it: each stage gives its own number to its parts")


def _arguments(cfg: DictConfig, target: Callable[..., Any], path: str, stage: int | None) -> dict[str, Any]:
    """The keyword arguments of a node's call: built, or a factory if the target builds the argument per stage."""
    per_stage = getattr(target, "per_stage", ())
    values = {str(key): _read(cfg, key) for key in cfg if key != "_target_"}
    arguments = {
        key: _factory(target, key, value, path) if key in per_stage else instantiate(value, stage=stage)
        for key, value in values.items()
    }
    if stage is not None and STAGE in named_parameters(signature_of(target)):
        arguments[STAGE] = stage
    return arguments


def _factory(target: Callable[..., Any], key: str, value: Any, path: str) -> StageFactory | None:
    """The factory that a target receives for an argument which it builds per stage; None stays None."""
    try:
        return None if value is None else stage_factory(_name(target), key, value)
    except NodeNeededError as error:
        raise BuildError(f"{_place(path)}{error}") from error


def _target(cfg: DictConfig, path: str) -> Callable[..., Any]:
    target = _read(cfg, "_target_")
    # omegaconf turns an assigned dataclass into its structured form
    target = OmegaConf.get_type(target) if is_structured(target) else instantiate(target)
    if isinstance(target, str):
        try:
            target = locate(target)
        except NameNotFoundError as error:
            raise TargetError(f"{_place(path)}_target_ {error}") from error
    if not callable(target):
        raise TargetError(f"{_place(path)}_target_ must be a class or a function, got {target!r}")
    return target


def _read(cfg: DictConfig, key: Any, *, default: Any = None) -> Any:
    """Read an item with its interpolation resolved. Raise BuildError for `???` and for a broken interpolation."""
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
    """Describe the arguments that do not fit the signature; None if all fit, or if there is no signature."""
    signature = signature_of(target)
    if signature is None:
        return None
    parameters = named_parameters(signature)
    takes = f"It takes: {', '.join(parameters) or 'no arguments'}."
    if not takes_any_keyword(signature):
        for unknown in (name for name in arguments if name not in parameters):
            key = f"{path}.{unknown}" if path else unknown
            return f"{key}: {_name(target)} has no argument '{unknown}'. {takes}{suggestion(unknown, parameters)}"
    missing = [name for name, p in parameters.items() if p.default is p.empty and name not in arguments]
    if missing:
        return f"{_place(path)}{_name(target)} lacks the argument {', '.join(map(repr, missing))}. {takes}"
    return None


def _raised_by_target(error: BaseException) -> bool:
    """Whether the target itself, or a constructor that it calls, refused a value.

    An error from deeper code, or from a wrong call inside the constructor, is not a mistake of the config.
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
    """Add the path of the innermost node to an exception that is raised again unchanged."""
    if hasattr(error, "config_path"):
        return
    vars(error)["config_path"] = path
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
