"""The two datasets that a table can be run on, and what their runs share."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from crossstage.errors import InputError

GENERATED = ("--train", "1200", "--val", "200", "--seed", "0", "--preset", "easy")
ANNOTATIONS = ("annotations/instances_train2017.json", "annotations/instances_val2017.json")


@dataclass(frozen=True)
class Data:
    """A dataset: where it lies unless --root says so, how often its runs save (iterations), and whether we write it."""

    name: str
    root: str
    checkpoint_period: int
    is_generated: bool


DATA = {
    "toy": Data("toy", "datasets/toy_easy", 200, is_generated=True),
    "coco": Data("coco", "datasets/coco", 2500, is_generated=False),
}


def is_absent(root: Path) -> bool:
    """Whether there is nothing at `root`, not even a file."""
    return not root.exists() or (root.is_dir() and not any(root.iterdir()))


def check_root(root: Path) -> None:
    """Raise InputError unless `root` holds both annotation files of COCO's layout."""
    missing = [name for name in ANNOTATIONS if not (root / name).is_file()]
    if missing:
        raise InputError(f"--root {root}: has no {', '.join(missing)}; expected a dataset in COCO's layout")


def generation(root: Path) -> list[str]:
    """The command that writes the generated set, without the interpreter."""
    return ["-m", "crossstage.data.toy", "--output", str(root), *GENERATED]


def described(data: Data, root: Path) -> str:
    """One phrase for the report: which data the figures are from."""
    if not data.is_generated:
        return "COCO: train2017, evaluated on val2017"
    try:
        settings = json.loads((root / "toy.json").read_text(encoding="utf-8"))
        return (
            f"the generated set: {settings['train']} training images, {settings['val']} to evaluate, preset "
            f"{settings['preset']}, size {settings['size']}, seed {settings['seed']}"
        )
    except (OSError, ValueError, KeyError, TypeError):
        return "images in COCO's layout, not written by our generator"
