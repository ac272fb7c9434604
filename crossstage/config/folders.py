"""Modules that are not installed but are in a folder, usually the folder of the user's config.

The folder of a config file can be imported from while the file is read and afterwards: `from my_rule import MyRule`
works if my_rule.py is in the same folder. A stored config lists the folders that it needs under `_import_from_`, so
that it can be loaded from any working directory.
"""

from __future__ import annotations

import importlib.util
import site
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import crossstage.configs

KEY = "_import_from_"
"""The key of a stored config that lists folders."""


def make_importable(folder: Path) -> None:
    """Append a folder to `sys.path` unless it is listed already or belongs to the library's own configs."""
    if str(folder) not in sys.path and not any(folder.is_relative_to(shipped) for shipped in _shipped()):
        sys.path.append(str(folder))


def needed_folders(content: Any) -> list[str]:
    """The folders of those modules that an encoded config names and that are not installed."""
    modules = {name.partition(".")[0] for name in _names(content)}
    ordinary = {Path(path) for path in (*sysconfig.get_paths().values(), *site.getsitepackages())}
    ordinary |= {Path(crossstage.__file__).parents[1], Path(site.getusersitepackages())}
    return sorted({str(folder) for module in modules if (folder := _folder(module)) and folder not in ordinary})


def _shipped() -> Iterator[Path]:
    """The folders with the library's configs and projects, in a checkout and in a wheel."""
    for configs in crossstage.configs.__path__:
        yield Path(configs)
        yield Path(configs).parent / "projects"


def _names(content: Any) -> Iterator[str]:
    """The dotted names in an encoded config."""
    if isinstance(content, dict):
        yield from (content[key] for key in ("_target_", "_object_") if isinstance(content.get(key), str))
    if isinstance(content, dict | list):
        for item in content.values() if isinstance(content, dict) else content:
            yield from _names(item)


def _folder(module: str) -> Path | None:
    """The folder that must be on `sys.path` for a top-level module; None for built-in and unknown ones."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # ValueError: a module without a spec, such as __main__
        return None
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).absolute().parent
    return Path(spec.origin).absolute().parent if spec.has_location and spec.origin else None
