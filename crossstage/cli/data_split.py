"""The work of `crossstage data split`: divides an annotation file into a training and a validation set."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crossstage.data.coco_json import CocoContents, read_coco
from crossstage.data.layouts import find_image_root
from crossstage.errors import InputError
from crossstage.files import write_text


def split(args: argparse.Namespace) -> None:
    """Write train.json and val.json, and print the numbers. Raises InputError if that is not possible."""
    file = Path(args.json_file).expanduser()
    if not 0 < args.val < 1:
        raise InputError(f"--val {args.val:g}: expected a share between 0 and 1")
    contents = read_coco(file)
    if len(contents.image_ids) < 2:
        raise InputError(f"{file}: has one image; expected at least two, to divide them")
    output = file.parent if args.output is None else Path(args.output).expanduser()
    paths = {"train": output / "train.json", "val": output / "val.json"}
    if there := [str(path) for path in paths.values() if path.exists()]:
        raise InputError(f"{', '.join(there)}: exists already; choose another folder with --output")
    in_val = validation_images(contents, share=args.val, seed=args.seed)
    root = find_image_root(file, ())
    content = json.loads(file.read_bytes())
    for name, chosen in (("train", ~in_val), ("val", in_val)):
        part = with_images(content, set(contents.image_ids[chosen].tolist()))
        try:
            output.mkdir(parents=True, exist_ok=True)
            write_text(paths[name], json.dumps(part))
        except OSError as error:
            raise InputError(f"{paths[name]}: cannot be written ({error.strerror}); choose another folder") from error
        print(f"{paths[name]}: {len(part['images'])} images, {len(part['annotations'])} annotations")
    print(f"images in {root}\ntrain with dataloader.data=[{paths['train']},{paths['val']}]")


def validation_images(contents: CocoContents, *, share: float, seed: int) -> np.ndarray:
    """Draw the images of the validation set, so that each class has about the same share of its images there.

    The classes are treated from the rarest on: images with the class are drawn until it has its share. A class with two
    or more images is in both sets where the classes before it allow it.

    Args:
        contents: the annotations.
        share: share of the images that go into the validation set, between 0 and 1.
        seed: decides the draws.

    Returns:
        Whether each image is in the validation set, bool [I].
    """
    number = len(contents.image_ids)
    has_class = np.zeros((number, len(contents.class_names)), bool)
    has_class[contents.image_rows, contents.labels] = True
    random = np.random.default_rng(seed)
    in_val, settled = np.zeros(number, bool), np.zeros(number, bool)
    for label in np.argsort(has_class.sum(0), kind="stable"):
        _settle(np.nonzero(has_class[:, label])[0], in_val, settled, share, random)
    _settle(np.arange(number), in_val, settled, share, random)
    if in_val.all() or not in_val.any():  # very few images
        in_val[random.integers(number)] ^= True
    return in_val


def _settle(
    rows: np.ndarray, in_val: np.ndarray, settled: np.ndarray, share: float, random: np.random.Generator
) -> None:
    """Draw, among those of `rows` that are not settled, as many as the share of `rows` in the validation set needs."""
    wanted = round(share * len(rows))
    if len(rows) >= 2:
        wanted = min(max(wanted, 1), len(rows) - 1)
    free = random.permutation(rows[~settled[rows]])
    in_val[free[: max(0, wanted - int(in_val[rows].sum()))]] = True
    settled[rows] = True


def with_images(content: dict[str, Any], image_ids: set[int]) -> dict[str, Any]:
    """The content of a JSON with only these images and their annotations; everything else is kept."""
    return {
        **content,
        "images": _of(content["images"], "id", image_ids),
        "annotations": _of(content["annotations"], "image_id", image_ids),
    }


def _of(records: Sequence[dict[str, Any]], key: str, ids: set[int]) -> list[dict[str, Any]]:
    return [record for record in records if record[key] in ids]
