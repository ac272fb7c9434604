"""Finds the config and the weights that a folder or a file stands for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from crossstage.checkpoints.save import BEST, Checkpointer
from crossstage.config import find_config
from crossstage.errors import InputError

CONFIG = "config.yaml"
FINAL = "model_final.pth"
PUBLISHED = "model.safetensors"
WEIGHT_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors", ".pkl")


@dataclass(frozen=True)
class RunFiles:
    """A config, and weights that fit it: a file or an http(s) address."""

    config: Path
    weights: str | Path


def find_run_files(source: str | Path, weights: str | Path | None = None) -> RunFiles:
    """Find the config and the weights.

    Args:
        source: the folder of a run, or one that `crossstage pull` wrote; a file of weights in such a folder; a config's
            short name or its file.
        weights: the weights; None takes those of the folder that has the config: the best ones, else the final ones,
            else those of the last checkpoint.

    Returns:
        The files.

    Raises:
        InputError: if there is no config, or no weights.
    """
    path = Path(source).expanduser()
    if path.is_file() and path.suffix.lower() in WEIGHT_SUFFIXES:
        if weights is not None:
            raise InputError(
                f"{source} is a file of weights, and {weights} is given too; expected a config, or one file"
            )
        path, weights = path.parent, path
    if path.is_dir():
        config = path / CONFIG
        if not config.is_file():
            raise InputError(f"{path}: has no {CONFIG}; expected the folder of a run, or give a config and weights=")
    else:
        config = find_config(source)
    found = weights_in(config.parent) if weights is None and config.name == CONFIG else weights
    if found is None:
        raise InputError(
            f"{source}: there are no weights with it; give them: crossstage.load({str(source)!r}, weights=...)"
        )
    return RunFiles(config, found)


def weights_in(folder: Path) -> Path | None:
    """The weights of a run's folder: the best, the final, those of a published model, or the last; None without any."""
    for name in (BEST, FINAL, PUBLISHED):
        if (folder / name).is_file():
            return folder / name
    return Checkpointer(folder).latest()
