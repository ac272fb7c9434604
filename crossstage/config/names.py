"""Dotted names: from an importable object to its name and back."""

from __future__ import annotations

import builtins
import difflib
import importlib
import inspect
import pickle
import sys
from collections.abc import Iterable
from enum import Enum
from typing import Any

from crossstage.errors import InputError


class NameNotFoundError(InputError, ImportError):
    """A dotted name that cannot be imported."""


def locate(name: str) -> Any:
    """Import the object of a dotted name: a class, a function or a constant of a module ("torch.nn.ReLU", "len").

    Raises:
        NameNotFoundError: says which part of the name could not be found, and the nearest name.
    """
    parts = name.split(".")
    if not all(part.isidentifier() for part in parts):
        raise NameNotFoundError(f"'{name}' is not a dotted name, expected e.g. 'package.module.Class'")
    if len(parts) == 1 and hasattr(builtins, name):
        return getattr(builtins, name)
    for length in range(1, len(parts) + 1):
        module = _import(".".join(parts[:length]), name)
        if module is None:
            break
        last = module
        if length < len(parts):
            found, value = _follow(module, parts[length:])
            if found:
                return value
    else:
        raise NameNotFoundError(f"'{name}' is a module, expected a class or function, e.g. '{name}.Class'")
    if length == 1:
        raise NameNotFoundError(f"'{name}' cannot be imported: there is no module '{parts[0]}' (is it installed?)")
    raise NameNotFoundError(_nothing_there(name, parts, last))


def dotted_name(value: Any) -> str | None:
    """The shortest name under which `locate` finds this same object ("torch.nn.Linear"), or None."""
    module, spellings = _home(value)
    packages = module.split(".")
    for length in range(1, len(packages) + 1):
        prefix = ".".join(packages[:length])
        for attributes in spellings:
            found, other = _follow(sys.modules.get(prefix), attributes.split("."))
            if found and (other is value or (inspect.ismethod(value) and other == value)):
                return f"{prefix}.{attributes}"
    return None


def suggestion(wrong: str, names: Iterable[str], prefix: str = "") -> str:
    """Return " Did you mean X?" for the nearest of the names, or "" if no name is near."""
    near = difflib.get_close_matches(wrong, [str(name) for name in names], n=1)
    return f" Did you mean {prefix}{near[0]}?" if near else ""


def _home(value: Any) -> tuple[str, list[str]]:
    """The module that an object comes from, and its possible names in this module."""
    if isinstance(value, Enum):
        return type(value).__module__, [f"{type(value).__qualname__}.{value.name}"]
    if hasattr(value, "__qualname__"):
        spellings = [value.__qualname__, value.__name__]  # torch.relu's __qualname__ is of a private class
        module = getattr(value, "__module__", None)
        if not isinstance(module, str):
            module = pickle.whichmodule(value, value.__name__)  # type: ignore[attr-defined]  # typeshed lacks it
        return module, spellings
    if type(value).__module__ == "torch" and type(value).__name__ in ("dtype", "layout", "memory_format"):
        # These have no `__name__`, but their text is the name: "torch.float32".
        module, _, attribute = str(value).rpartition(".")
        return module, [attribute]
    return "", []


def _import(module: str, name: str) -> Any:
    """Import a module; None if there is no module of this name. If the module itself fails, raise with the cause."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            return None
        raise NameNotFoundError(f"'{name}' cannot be imported: {module} needs {error.name}: {error}") from error
    except Exception as error:
        text = " ".join(str(error).split())
        raise NameNotFoundError(f"'{name}' cannot be imported: {module}: {type(error).__name__}: {text}") from error


def _follow(value: Any, attributes: list[str]) -> tuple[bool, Any]:
    for attribute in attributes:
        if not hasattr(value, attribute):
            return False, None
        value = getattr(value, attribute)
    return True, value


def _nothing_there(name: str, parts: list[str], module: Any) -> str:
    """The message that says which part of a name is missing; `module` is the last one that could be imported."""
    here, value = module.__name__, module
    for part in parts[here.count(".") + 1 :]:
        if not hasattr(value, part):
            hint = suggestion(part, dir(value), f"{here}.")
            return f"'{name}' cannot be imported: {here} has no '{part}'.{hint}"
        here, value = f"{here}.{part}", getattr(value, part)
    return f"'{name}' cannot be imported"
