"""Runs config files that are written in Python.

A config file runs with its own `__import__` function, so that nothing global is patched. It treats imports as follows:

- A relative import is resolved by its path; each import gets copies of the other file's values.
- So is an absolute import of a config file, that is, of a module in a folder named `configs` without `__init__.py`.
- Any other import is Python's own, which also finds the modules in the folder of the config.

Ordinary Python code can import the same files; there they are normal modules, run once and shared.
"""

from __future__ import annotations

import builtins
import copy
import importlib.util
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from omegaconf import Container

from crossstage.config.folders import make_importable
from crossstage.config.names import suggestion
from crossstage.config.nodes import CONFIG_MODULE, as_config
from crossstage.errors import InputError


class ConfigFileError(InputError):
    """A config file that does not run; the message begins with the file and the line."""


class ConfigNotFoundError(InputError, FileNotFoundError):
    """A config file that does not exist."""


class ConfigImportError(ConfigFileError, ImportError):
    """An import in a config file that does not work."""


Values = dict[str, Any]
_ALREADY_RUN: ContextVar[dict[Path, Values] | None] = ContextVar("_ALREADY_RUN", default=None)


@contextmanager
def files_run_once() -> Iterator[None]:
    """Inside, a config file is run once, however many configs are loaded; without it, once for each of them.

    For programs that load many configs. They must not expect to see a change of a file in between.
    """
    known = _ALREADY_RUN.get()
    token = _ALREADY_RUN.set({} if known is None else known)
    try:
        yield
    finally:
        _ALREADY_RUN.reset(token)


def run_config(file: Path, importers: tuple[Path, ...] = ()) -> Values:
    """Run a config file and return its names; dicts become DictConfigs.

    A file that several files of one config import is run once; each of them gets copies that it may change.

    Args:
        file: the config file.
        importers: the files that import this one, outermost first.

    Returns:
        The values by name, without names that begin with two underscores.

    Raises:
        ConfigImportError: if an import in the file fails.
        ConfigFileError: for any other exception while the file is read and run.
    """
    if (known := _ALREADY_RUN.get()) is None:
        with files_run_once():
            return run_config(file, importers)
    if file not in known:
        known[file] = _run(file, importers)
    nodes = {name: value for name, value in known[file].items() if isinstance(value, Container)}
    return {**known[file], **copy.deepcopy(nodes)}  # in one copy, so that a node and a part of it stay one


def _run(file: Path, importers: tuple[Path, ...]) -> Values:
    namespace: dict[str, Any] = {"__name__": f"{CONFIG_MODULE}{file.stem}", "__file__": str(file), "__doc__": None}
    namespace["__builtins__"] = {**vars(builtins), "__import__": _Importer(file, importers)}
    make_importable(file.parent)
    try:
        exec(compile(file.read_bytes(), str(file), "exec"), namespace)
    except ConfigFileError:
        raise
    except ImportError as error:
        raise ConfigImportError(_describe(error, file)) from error
    except Exception as error:
        raise ConfigFileError(_describe(error, file)) from error
    return {name: as_config(value) for name, value in namespace.items() if not name.startswith("__")}


class _Importer:
    """The `__import__` that one config file sees."""

    def __init__(self, file: Path, importers: tuple[Path, ...]) -> None:
        self.file = file
        self.importers = importers

    def __call__(
        self,
        name: str,
        namespace: Mapping[str, Any] | None = None,
        local: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> types.ModuleType:
        place = f"{self.file}:{sys._getframe(1).f_lineno}"
        statement = f"from {'.' * level}{name} import {', '.join(fromlist or ())}"
        if level:
            target: Path | None = self._relative(name, level, f"{place}: {statement}")
        else:
            target = _config_module(name) if fromlist else None
        if target is None:
            return builtins.__import__(name, namespace, local, fromlist or (), level)
        if target in (*self.importers, self.file):
            raise ConfigImportError(f"{place}: {statement}: {target} imports this file too; remove one of the imports")
        values = run_config(target, (*self.importers, self.file))
        for wanted in fromlist or ():
            if wanted != "*" and wanted not in values:
                hint = suggestion(wanted, values)
                raise ConfigImportError(f"{place}: {statement}: {target} does not define {wanted}.{hint}")
        module = types.ModuleType(name)
        module.__file__ = str(target)
        vars(module).update(values)
        return module

    def _relative(self, name: str, level: int, statement: str) -> Path:
        folder = self.file.parents[min(level, len(self.file.parents)) - 1]
        base = folder.joinpath(*name.split(".")) if name else folder
        file = base.with_name(f"{base.name}.py")
        if name and file.is_file():
            return file
        if base.is_dir():
            example = f"from {'.' * level}{f'{name}.' if name else ''}FILE import NAME"
            raise ConfigImportError(
                f"{statement}: a relative import needs a config file, but {base} is a directory; write {example}"
            )
        raise ConfigImportError(f"{statement}: relative import of a file that does not exist: {file}")


def _config_module(name: str) -> Path | None:
    """The file of a module that is a config file; None for all other modules."""
    package, _, _ = name.rpartition(".")
    if "configs" not in package.split("."):
        return None
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    regular = getattr(sys.modules.get(package), "__file__", None) is not None
    origin = None if spec is None else spec.origin
    return Path(origin) if origin is not None and origin.endswith(".py") and not regular else None


def _describe(error: Exception, file: Path) -> str:
    """`FILE:LINE: ERROR` on one line; LINE is the last line of this file that ran."""
    text = " ".join(str(error).split())
    if isinstance(error, SyntaxError) and error.filename == str(file):
        return f"{file}:{error.lineno}: {type(error).__name__}: {error.msg}: {(error.text or '').strip()}"
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(file):
            line = trace.tb_lineno
        trace = trace.tb_next
    place = f"{file}:{line}" if line else str(file)
    return f"{place}: {text}" if isinstance(error, InputError) else f"{place}: {type(error).__name__}: {text}"
