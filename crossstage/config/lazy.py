"""LazyConfig: load, save and override configs, and find the shared ones."""

from __future__ import annotations

import logging
import os
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cloudpickle
from omegaconf import DictConfig

import crossstage.configs
from crossstage.config import folders, yaml_form
from crossstage.config.names import suggestion
from crossstage.config.nodes import as_config
from crossstage.config.override import apply_overrides
from crossstage.config.python_form import to_py
from crossstage.config.source import ConfigNotFoundError, run_config
from crossstage.errors import InputError
from crossstage.files import write_bytes, write_text

_LOG = logging.getLogger(__name__)
PathLike = str | os.PathLike[str]
Keys = str | Sequence[str] | None


class ConfigKeyError(InputError, KeyError):
    """A name that a config file does not define."""


class LazyConfig:
    """The operations on config files; all are static methods."""

    @staticmethod
    def load(filename: PathLike, keys: Keys = None) -> Any:
        """Load a .py or .yaml file. The file is run or read again at each call.

        Modules in the folder of the file can be imported from then on.

        Args:
            filename: the file.
            keys: a name, or several names, whose values to return; None returns the whole config.

        Returns:
            Without `keys`: a DictConfig with the content of the YAML file, or with those mappings of the Python file
            whose names do not begin with an underscore. With `keys`: the value, or a tuple of values, of any type.

        Raises:
            InputError: ConfigNotFoundError, ConfigFileError, ConfigImportError or ConfigKeyError. The message is one
                line that names the file.
        """
        file = Path(os.path.abspath(filename))
        if file.suffix not in (".py", ".yaml", ".yml"):
            pickled = "; a pickle executes code: if you trust it, use LazyConfig.load_pickle" * (file.suffix == ".pkl")
            raise InputError(f"{file}: a config is a .py, .yaml or .yml file{pickled}")
        if not file.is_file():
            raise ConfigNotFoundError(f"{file}: there is no such config file.{_neighbours(file)}")
        is_python = file.suffix == ".py"
        values = run_config(file) if is_python else _load_yaml(file)
        if keys is None:
            return as_config({k: v for k, v in values.items() if _is_root(k, v)}) if is_python else values
        return _value(values, keys, file) if isinstance(keys, str) else tuple(_value(values, k, file) for k in keys)

    @staticmethod
    def load_rel(filename: PathLike, keys: Keys = None) -> Any:
        """Load a file whose path is relative to the file that calls this method; see `load`."""
        caller = sys._getframe(1).f_code.co_filename
        if caller.startswith("<"):
            raise InputError(f"{filename}: load_rel is for files, but {caller} is not a file; use LazyConfig.load")
        return LazyConfig.load(Path(caller).parent / filename, keys)

    @staticmethod
    def save(cfg: DictConfig, filename: PathLike) -> None:
        """Write a config as YAML that `load` can read. Interpolations are kept.

        Targets become dotted names; classes, functions, enum members and torch dtypes become `{_object_: NAME}`;
        dataclass instances become nodes. The folders of modules that are not installed are listed under
        `_import_from_`. If a value has no such form (for example a lambda), the YAML holds a description of it, a
        warning names the key, and the whole config is also written as `<filename>.pkl` (see `load_pickle`). Each file
        is replaced completely or not at all.

        Args:
            cfg: the config.
            filename: the YAML file to create or to replace.

        Raises:
            InputError: if a file cannot be written.
        """
        file = Path(filename)
        content, lost = yaml_form.encode(cfg)
        if needed := folders.needed_folders(content):
            content[folders.KEY] = needed
        beside = file.with_name(f"{file.name}.pkl")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            beside.unlink(missing_ok=True)  # the pickle of an earlier config would not fit this one
            if lost:
                _save_pickle(cfg, beside, lost)
            write_text(file, yaml_form.dump(content))
        except OSError as error:
            raise InputError(f"{file}: cannot be written ({error.strerror}); choose another place") from error

    @staticmethod
    def load_pickle(filename: PathLike) -> DictConfig:
        """Read the pickle that `save` wrote next to a YAML file. It can execute code: use it for trusted files only."""
        file = Path(filename)
        if not file.is_file():
            raise ConfigNotFoundError(f"{file}: there is no such file.{_neighbours(file)}")
        return pickle.loads(file.read_bytes())

    @staticmethod
    def apply_overrides(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
        """Change a config in place by `a.b=1`, `+a.b=1` (add) or `~a.b` (delete), and return it; see `override`."""
        return apply_overrides(cfg, overrides)

    @staticmethod
    def to_py(cfg: DictConfig, prefix: str = "cfg.") -> str:
        """Return a config as Python-like text for people to read; interpolations are resolved if possible."""
        return to_py(cfg, prefix)


def get_config(name: PathLike) -> DictConfig:
    """Load a shared config from `crossstage.configs`, e.g. `get_config("common/train.py")`.

    Raises:
        ConfigNotFoundError: for an unknown name; the message lists the known ones.
    """
    folders = [Path(folder) for folder in crossstage.configs.__path__]
    for folder in folders:
        if (folder / name).is_file():
            return LazyConfig.load(folder / name)
    known = sorted(path.relative_to(folder).as_posix() for folder in folders for path in folder.glob("*/**/*.py"))
    hint = suggestion(str(name), known)
    raise ConfigNotFoundError(f"get_config('{name}'): no such shared config. There are: {', '.join(known)}.{hint}")


def _load_yaml(file: Path) -> dict[str, Any]:
    try:
        values = yaml_form.parse(file.read_text(encoding="utf-8"), file)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read as text ({error})") from error
    if not isinstance(values, dict):
        raise InputError(f"{file}: a config is a mapping at its top level, this is {type(values).__name__}")
    for folder in (file.parent, *map(Path, values.pop(folders.KEY, ()))):
        if folder.is_dir():
            folders.make_importable(folder)
        else:
            _LOG.warning(
                "%s: needs modules of %s, which does not exist; copy them into the folder of this file", file, folder
            )
    return as_config(yaml_form.decode(values, str(file)))


def _value(values: Any, key: str, file: Path) -> Any:
    if key not in values:
        public = [name for name in values if not _private(name)]
        hint = suggestion(key, public)
        raise ConfigKeyError(f"{file}: defines no '{key}'. It defines: {', '.join(map(str, public))}.{hint}")
    return values[key]


def _is_root(name: str, value: Any) -> bool:
    return isinstance(value, DictConfig) and not _private(name)


def _private(name: Any) -> bool:
    return isinstance(name, str) and name.startswith("_")


def _neighbours(file: Path) -> str:
    if not file.parent.is_dir():
        return f" Nor is there a folder {file.parent}."
    return suggestion(file.name, (path.name for path in file.parent.iterdir()))


def _save_pickle(cfg: DictConfig, file: Path, lost: list[str]) -> None:
    keys = ", ".join(lost)
    try:
        write_bytes(file, cloudpickle.dumps(cfg))
    except OSError:
        raise
    except Exception as error:  # a value that cannot be stored must not stop the run that saves its config
        _LOG.warning("%s: not stored, neither as YAML nor as pickle: %s (%s)", file.with_suffix(""), keys, error)
    else:
        _LOG.warning("%s: YAML cannot hold %s: pickled next to it in %s", file.with_suffix(""), keys, file.name)
