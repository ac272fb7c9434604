"""Finds the annotation files and image folders of a data set in the layouts that exporters write.

Known are COCO's (`annotations/instances_train2017.json`, `train2017/`), plain names (`annotations/train.json`,
`images/`), Roboflow's (`train/_annotations.coco.json` beside the images) and whatever differs from these only in
details: a JSON file belongs to a split if its name, or that of its folder, contains the word train, val, valid,
validation or test.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from crossstage.data.coco_json import read_file_names
from crossstage.errors import InputError

WORDS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "dev"), "test": ("test", "testing")}
OTHER_LAYOUTS = {
    "data.yaml": "a YOLO data set",
    "dataset.yaml": "a YOLO data set",
    "Annotations/*.xml": "a Pascal VOC data set",
    "*/*.xml": "a Pascal VOC data set",
    "labels/**/*.txt": "a YOLO data set",
}


@dataclass(frozen=True)
class Split:
    """A part of a data set: its annotations and the folder from which their file names lead to the images."""

    json_file: Path
    image_root: Path


def find_splits(data: str | Sequence[str]) -> dict[str, Split]:
    """Find the parts of a data set.

    Args:
        data: a folder, or the JSON files of training and validation (and of a test set, if there is one).

    Returns:
        The splits by name: "train", "val" and, if there is one, "test". If there is no "val", it is the "test" split.

    Raises:
        InputError: if the data set, a split or its images are not found, or several files could be meant.
    """
    if isinstance(data, str):
        folder = Path(data).expanduser()
        files = _files_of_folder(folder)
    else:
        paths = [Path(str(path)).expanduser() for path in data]
        if len(paths) not in (2, 3):
            raise InputError(f"dataloader.data has {len(paths)} entries; expected a folder, or [train.json, val.json]")
        files = dict(zip(WORDS, paths, strict=False))
    splits = {name: Split(file, find_image_root(file, WORDS[name])) for name, file in files.items()}
    return splits if "val" in splits else {**splits, "val": splits["test"]}


def _files_of_folder(folder: Path) -> dict[str, Path]:
    """The JSON file of each split of a folder."""
    if not folder.is_dir():
        problem = "is a file; give a folder, or [train.json, val.json]" if folder.is_file() else "no such folder"
        raise InputError(f"dataloader.data={folder}: {problem}")
    places = [folder, *sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))]
    # Hidden files are copies of editors and notebooks, and the "._" files in archives that macOS writes.
    found = [file for place in places for file in sorted(place.glob("[!.]*.json"))]
    files = {name: _only(name, [file for file in found if split_of(file, folder) == name]) for name in WORDS}
    there = {name: file for name, file in files.items() if file is not None}
    if "train" in there and len(there) > 1:
        return there
    for pattern, kind in OTHER_LAYOUTS.items():
        if not found and next(folder.glob(pattern), None) is not None:
            raise InputError(f"dataloader.data={folder}: is {kind}; crossstage data convert {folder} makes it COCO")
    names = ", ".join(str(file.relative_to(folder)) for file in found[:6]) or "none"
    lacks = "a training set" if "train" not in there else "a validation set"
    raise InputError(
        f"dataloader.data={folder}: {lacks} is not found; its JSON files: {names}. Expected e.g. "
        "annotations/instances_train2017.json and instances_val2017.json, annotations/train.json and val.json, or "
        "train/_annotations.coco.json; or give both files: dataloader.data=[train.json,val.json]; a single file is "
        "divided by crossstage data split"
    )


def split_of(file: Path, folder: Path) -> str | None:
    """The split that a JSON file belongs to, by a word in its name or else in the name of its folder below `folder`."""
    for text in (file.stem, "" if file.parent == folder else file.parent.name):
        words = re.findall(r"[a-z]+", text.lower())
        if found := [name for name, known in WORDS.items() if set(words) & set(known)]:
            return found[0] if len(found) == 1 else None
    return None


def _only(name: str, candidates: list[Path]) -> Path | None:
    """The file of a split: COCO's instances rather than its captions or keypoints; None if there is no file."""
    by_rank = (
        [file for file in candidates if "instances" in file.stem],
        [file for file in candidates if file.stem in WORDS[name] or file.stem == "_annotations.coco"],
        candidates,
    )
    chosen = next((files for files in by_rank if files), [])
    if len(chosen) > 1:
        raise InputError(
            f"dataloader.data: several files could be the {name} set ({', '.join(map(str, chosen[:4]))}); give the "
            "files instead of the folder: dataloader.data=[train.json,val.json]"
        )
    return chosen[0] if chosen else None


def find_image_root(json_file: Path, words: Sequence[str]) -> Path:
    """Find the folder from which the file names of a JSON lead to the images.

    Folders of the split come first, because the splits may have images of the same names.

    Args:
        json_file: the annotations.
        words: the names of the split.

    Returns:
        The folder.

    Raises:
        InputError: if the images are in none of the usual places; names these and the first image.
    """
    names = read_file_names(json_file)
    some = names[:: max(1, len(names) // 8)]
    own = list(dict.fromkeys([json_file.stem.removeprefix("instances_"), *words]))
    is_below = json_file.parent.name in ("annotations", *own)
    folder = json_file.parent.parent if is_below else json_file.parent
    places = [folder / name for name in own] + [folder / inner / name for inner in ("images", "data") for name in own]
    places += [folder / name / inner for name in own for inner in ("images", "data")]
    places += [folder / name for name in ("images", "data", "JPEGImages", "img", "imgs")]
    places += [json_file.parent / "images", json_file.parent, folder]
    found = [(sum((place / name).is_file() for name in some), place) for place in dict.fromkeys(places)]
    most = max(number for number, _ in found)
    if not most:
        tried = ", ".join(str(place) for place in dict.fromkeys(places) if place.is_dir())
        raise InputError(
            f"{json_file}: its images (the first is {names[0]}) are not in {tried}; give their "
            "folder by dataloader.train.dataset.image_root and dataloader.test.dataset.image_root instead of "
            "dataloader.data, with json_file beside each"
        )
    return next(place for number, place in found if number == most)
