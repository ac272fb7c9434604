"""Writes a dataset of generated images in COCO's layout; a config needs only another root to use COCO instead.

    python -m crossstage.data.toy --output datasets/toy --train 1200 --val 200 --seed 0 --preset easy

The i-th image of a split depends only on (seed, split, i, preset, size), so that a larger dataset begins with the
images of a smaller one. The output folder appears when it is complete. An existing folder is never changed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from crossstage.data.toy.outlines import CLASS_NAMES
from crossstage.data.toy.scenes import PRESETS, SceneObject, draw_scene
from crossstage.errors import InputError

# The ids have gaps, as in COCO, so that nobody can mistake a category id for a class index.
CATEGORY_IDS = (1, 2, 3, 5, 7, 11, 13, 17)
SPLITS = ("train", "val")
FIRST_IMAGE_ID = {"train": 1, "val": 1_000_001}  # the two splits share no id, as in COCO
SETTINGS_FILE = "toy.json"
GENERATOR_VERSION = 1

Drawn = tuple[dict[str, Any], list[SceneObject]]  # the record of an image in the JSON, and its objects


@dataclass(frozen=True)
class ToySettings:
    """All settings on which the files of a generated dataset depend.

    Attributes:
        train: number of training images.
        val: number of validation images.
        seed: seed of all random numbers.
        preset: a name in `scenes.PRESETS`.
        size: longest side of an image in pixels.
        version: version of the generator.
    """

    train: int
    val: int
    seed: int = 0
    preset: str = "easy"
    size: int = 128
    version: int = GENERATOR_VERSION

    def __post_init__(self) -> None:
        for name, least in (("train", 1), ("val", 1), ("seed", 0), ("size", 48)):
            if getattr(self, name) < least:
                raise InputError(f"--{name} {getattr(self, name)}: expected a number of at least {least}")
        for name, most in (("train", 1_000_000), ("val", 1_000_000), ("size", 8192)):
            if getattr(self, name) > most:
                raise InputError(f"--{name} {getattr(self, name)}: expected a number of at most {most}")
        if self.preset not in PRESETS:
            raise InputError(f"--preset {self.preset}: expected one of {', '.join(PRESETS)}")


def write_toy(output: str | Path, settings: ToySettings, *, workers: int = 1) -> bool:
    """Write a dataset into a folder.

    Args:
        output: the folder.
        settings: describe the dataset.
        workers: number of processes that draw.

    Returns:
        True, or False if the folder already holds this dataset; nothing is done then.

    Raises:
        InputError: if the folder holds anything else or cannot be written; nothing is changed then.
    """
    output = Path(output)
    if _already_there(output, settings):
        return False
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        partial_folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.partial-", dir=output.parent))
    except OSError as error:
        raise InputError(f"{output}: cannot be written ({error.strerror}); choose another --output") from error
    try:
        for split in SPLITS:
            _write_split(partial_folder, split, settings, workers)
        (partial_folder / SETTINGS_FILE).write_text(json.dumps(asdict(settings)) + "\n")
        partial_folder.chmod(0o777 & ~_umask())  # mkdtemp makes it private
        if output.exists():
            output.rmdir()  # it is empty: _already_there has checked this
        partial_folder.rename(output)
    except OSError as error:
        raise InputError(f"{output}: writing failed ({error.strerror or error}); nothing was kept") from error
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)  # it is there only if something went wrong
    return True


def _already_there(output: Path, settings: ToySettings) -> bool:
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return False
    try:
        found = json.loads((output / SETTINGS_FILE).read_text())
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{output}: exists and is not a dataset of this generator; choose another --output")
    wanted = asdict(settings)
    different = [f"{name}={found.get(name)}" for name in wanted if found.get(name) != wanted[name]]
    if different:
        raise InputError(
            f"{output}: holds a dataset that was generated with {', '.join(different)}; "
            "remove the folder or choose another --output"
        )
    return True


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _write_split(folder: Path, split: str, settings: ToySettings, workers: int) -> None:
    (folder / f"{split}2017").mkdir()
    (folder / "annotations").mkdir(exist_ok=True)
    count = getattr(settings, split)
    images, annotations = [], []
    draw = partial(_write_image, folder / f"{split}2017", split, settings)
    for done, (image, objects) in enumerate(_parallel(draw, count, workers), start=1):
        images.append(image)
        annotations += _annotations(image["id"], objects)
        _show_progress(split, done, count)
    content = {
        "info": {"description": "generated by crossstage.data.toy", **asdict(settings)},
        "licenses": [],
        "categories": [
            {"id": category_id, "name": name, "supercategory": "shape"}
            for category_id, name in zip(CATEGORY_IDS, CLASS_NAMES, strict=True)
        ],
        "images": images,
        "annotations": annotations,
    }
    (folder / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))


def _parallel(draw: Callable[[int], Drawn], count: int, workers: int) -> Iterator[Drawn]:
    if workers <= 1 or count < 200:
        yield from map(draw, range(count))
        return
    pool = ProcessPoolExecutor(workers, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN))
    try:
        yield from pool.map(draw, range(count), chunksize=16)
    finally:
        pool.shutdown(cancel_futures=True)


def _write_image(folder: Path, split: str, settings: ToySettings, index: int) -> Drawn:
    rng = np.random.default_rng([settings.seed, SPLITS.index(split), index])
    pixels, objects = draw_scene(rng, replace(PRESETS[settings.preset], size=settings.size))
    image_id = FIRST_IMAGE_ID[split] + index
    file_name = f"{image_id:012d}.jpg"
    Image.fromarray(pixels).save(folder / file_name, quality=90)
    return {"id": image_id, "file_name": file_name, "height": pixels.shape[0], "width": pixels.shape[1]}, objects


def _annotations(image_id: int, objects: list[SceneObject]) -> list[dict[str, Any]]:
    return [
        {
            "id": image_id * 100 + number,
            "image_id": image_id,
            "category_id": CATEGORY_IDS[item.class_index],
            "bbox": list(item.box),
            "area": item.area,
            "iscrowd": int(item.is_crowd),
        }
        for number, item in enumerate(objects)
    ]


def _show_progress(split: str, done: int, count: int) -> None:
    """On a terminal, update one line; elsewhere, print one line per split."""
    if sys.stderr.isatty() and (done == count or done % 20 == 0):
        print(f"\r{split}: {done}/{count} images", end="\n" if done == count else "", file=sys.stderr, flush=True)
    elif done == count:
        print(f"{split}: {count} images", file=sys.stderr, flush=True)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m crossstage.data.toy", description=__doc__.splitlines()[0])
    parser.add_argument("--output", required=True, help="the folder to write; it may not exist yet")
    parser.add_argument("--train", type=int, required=True, help="number of training images")
    parser.add_argument("--val", type=int, required=True, help="number of validation images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="easy")
    parser.add_argument("--size", type=int, help="longest side of an image in pixels; each preset has its own default")
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1), help="processes that draw")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status (2 for a mistake that the user can correct)."""
    options = _parse(arguments)
    try:
        size = PRESETS[options.preset].size if options.size is None else options.size
        settings = ToySettings(options.train, options.val, options.seed, options.preset, size)
        written = write_toy(options.output, settings, workers=options.workers)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted, nothing was kept", file=sys.stderr)
        return 130
    print(f"{options.output}: {'written' if written else 'already there, nothing to do'}")
    return 0
