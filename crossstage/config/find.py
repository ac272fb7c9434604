"""Finds the config of an experiment by its short name, both in a checkout and in an installed wheel."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

import crossstage.projects
from crossstage.config.source import ConfigNotFoundError

SUFFIXES = (".py", ".yaml", ".yml")


def experiments() -> dict[str, Path]:
    """The config files of all projects by their short names (`dino_r50_4scale_12ep`), sorted by project and name.

    The files of `configs/models/` are left out because they define a model without data and schedule.
    """
    files = [file for folder in crossstage.projects.__path__ for file in Path(folder).glob("*/configs/*.py")]
    return {file.stem: file for file in sorted(files) if file.stem != "__init__"}


def find_config(name: str | os.PathLike[str]) -> Path:
    """Find the file of a config.

    Args:
        name: a path (.py, or the config.yaml of a run), or one of our experiments: its short name, or its path in the
            checkout (`projects/dino/configs/...`), which is found from any folder.

    Returns:
        The path of the file.

    Raises:
        ConfigNotFoundError: if there is no such file or name; the message lists the nearest names.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    known = experiments()
    if str(name) in known:
        return known[str(name)]
    ours = known.get(path.stem)
    if ours is not None and path.parts[0] == "projects" and ours.parts[-len(path.parts) :] == path.parts:
        return ours
    near = difflib.get_close_matches(path.stem if path.suffix in SUFFIXES else str(name), known, n=3)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    kind = "config file" if path.suffix in SUFFIXES else "config, neither a file nor a short name"
    raise ConfigNotFoundError(f"{name}: there is no such {kind}.{hint} `crossstage configs list` prints all names.")
