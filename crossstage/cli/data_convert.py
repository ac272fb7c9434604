"""The work of `crossstage data convert`: YOLO and Pascal VOC annotations, read by supervision, become COCO's JSON.

The images stay where they are. Sizes are those of the images as they are shown, after their EXIF orientation: our
reader turns images, and supervision multiplies YOLO's normalised boxes by these sizes.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from crossstage.data.layouts import WORDS
from crossstage.data.pixels import orientation, read_image
from crossstage.errors import InputError
from crossstage.files import write_text

ALL = "all"  # the name of the only part of an undivided data set


@dataclass(frozen=True)
class Part:
    """A part of a data set: class names by class index, and (class index, x0, y0, x1, y1) in pixels by image."""

    class_names: list[str]
    objects: dict[Path, list[tuple[int, float, float, float, float]]]


def convert(args: argparse.Namespace) -> None:
    """Write annotations/<part>.json into the folder, and print the numbers. Raises InputError if nothing is found."""
    folder = Path(args.folder).expanduser()
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    output = folder / "annotations"
    if output.is_dir() and any(output.glob("*.json")):
        raise InputError(f"{output}: holds annotations already; move them away to convert again")
    descriptions = [path for path in (folder / "data.yaml", folder / "dataset.yaml") if path.is_file()]
    parts = yolo_parts(descriptions[0]) if descriptions else voc_parts(folder)
    names = list(next(iter(parts.values())).class_names)
    for part in parts.values():  # VOC has no list of classes: each part has those that occur in it
        names += [name for name in part.class_names if name not in names]
    for name, part in parts.items():
        content = coco_content(part, names, folder)
        try:
            output.mkdir(exist_ok=True)
            write_text(output / f"{name}.json", json.dumps(content))
        except OSError as error:
            raise InputError(f"{output}: cannot be written ({error.strerror})") from error
        numbers = f"{len(content['images'])} images, {len(content['annotations'])} boxes, {len(names)} classes"
        print(f"{output / name}.json: {numbers}")
    following = f"crossstage data check {folder}"
    if ALL in parts:
        following = f"crossstage data split {output / ALL}.json"
    print(f"next: {following}")


def coco_content(part: Part, names: Sequence[str], folder: Path) -> dict[str, Any]:
    """The COCO JSON of a part; file names lead from `folder` to the images."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (path, objects) in enumerate(sorted(part.objects.items()), start=1):
        width, height = shown_size(path)
        images.append({"id": number, "file_name": relative(path, folder), "width": width, "height": height})
        for label, x0, y0, x1, y1 in objects:
            box = [round(value, 3) for value in (x0, y0, x1 - x0, y1 - y0)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": names.index(part.class_names[label]) + 1,
                    "bbox": box,
                    "area": round(box[2] * box[3], 3),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def relative(path: Path, folder: Path) -> str:
    """The path from a folder to a file, with forward slashes."""
    return Path(os.path.relpath(path, folder)).as_posix()


def shown_size(path: Path) -> tuple[int, int]:
    """(width, height) of an image after its EXIF orientation. Raises InputError if it is not an image."""
    try:
        if orientation(path) > 1:  # some formats of Pillow report the turned size, some the stored one
            height, width = read_image(path).shape[1:]
            return width, height
        with Image.open(path) as image:
            return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: cannot be read as an image ({error}); copy it again or remove it") from error


def yolo_parts(description: Path) -> dict[str, Part]:
    """The parts that a YOLO data.yaml names; each has a folder `images` (or images beside labels) and one `labels`."""
    try:
        content = yaml.safe_load(description.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{description}: is not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict) or "names" not in content:
        raise InputError(f'{description}: has no "names"; expected the classes and the folders of the images')
    parts = {}
    for name, words in WORDS.items():
        given = next((content[word] for word in words if content.get(word)), None)
        if isinstance(given, str):
            images = image_folder(description.parent, Path(content.get("path") or "."), Path(given))
            labels = labels_of(images)
            parts[name] = loaded("from_yolo", images, labels, str(description))
    if not parts:
        raise InputError(f'{description}: names no folder under "train" and "val"; expected folders of images')
    return parts


def image_folder(base: Path, inner: Path, given: Path) -> Path:
    """The folder of images that a data.yaml means. Roboflow's begin with ../ although they lie beside the file."""
    inside = Path(*(part for part in given.parts if part != ".."))
    places = [base / inner / given, base / given, base / inside]
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise InputError(f"{base}: data.yaml names the folder {given}, which is not there; correct its path")
    return found


def labels_of(images: Path) -> Path:
    """The folder of YOLO's labels: the last folder `images` of the path is replaced by `labels`."""
    parts = list(images.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts)


def voc_parts(folder: Path) -> dict[str, Part]:
    """The parts of a Pascal VOC folder: by ImageSets/Main, or a folder per split, or all together."""
    if (folder / "Annotations").is_dir():
        images = next((folder / name for name in ("JPEGImages", "images") if (folder / name).is_dir()), None)
        if images is None:
            raise InputError(f"{folder}: has Annotations, but no folder JPEGImages or images")
        whole = loaded("from_pascal_voc", images, folder / "Annotations")
        lists = {name: folder / "ImageSets" / "Main" / f"{name}.txt" for name in WORDS}
        parts = {name: restricted(whole, file.read_text().split()) for name, file in lists.items() if file.is_file()}
        return parts if "train" in parts and len(parts) > 1 else {ALL: whole}
    parts = {}
    for name, words in WORDS.items():
        place = next((folder / word for word in words if next((folder / word).glob("*.xml"), None)), None)
        if place is not None:
            parts[name] = loaded("from_pascal_voc", place, place)
    if not parts:
        raise InputError(
            f"{folder}: is neither a YOLO data set (data.yaml) nor a Pascal VOC one (Annotations/*.xml, or train/*.xml)"
        )
    return parts


def restricted(part: Part, stems: Iterable[str]) -> Part:
    """The images of a part whose names without suffix are among `stems`."""
    wanted = set(stems)
    return Part(part.class_names, {path: rows for path, rows in part.objects.items() if path.stem in wanted})


def loaded(reader: str, images: Path, annotations: Path, *more: str) -> Part:
    """Read a folder by one of the readers of supervision's DetectionDataset.

    Args:
        reader: its name.
        images: the folder of the images.
        annotations: the folder of the annotations.
        *more: further arguments of the reader.

    Returns:
        The classes and objects.

    Raises:
        InputError: if supervision is not installed, or refuses a file.
    """
    try:
        from supervision import DetectionDataset
    except ImportError as error:
        raise InputError("crossstage data convert needs supervision: pip install 'crossstage[convert]'") from error
    if not annotations.is_dir():
        raise InputError(f"{annotations}: no such folder; expected the annotations of {images} there")
    try:
        dataset = getattr(DetectionDataset, reader)(str(images), str(annotations), *more)
    except (ValueError, KeyError, OSError, SyntaxError) as error:
        raise InputError(f"{annotations}: {' '.join(str(error).split())}") from error
    return Part(list(dataset.classes), {Path(name): rows(found) for name, found in dataset.annotations.items()})


def rows(found: Any) -> list[tuple[int, float, float, float, float]]:
    """(class index, x0, y0, x1, y1) of each object of supervision's Detections."""
    labels = [] if found.class_id is None else found.class_id.tolist()
    return [(label, *box) for label, box in zip(labels, found.xyxy.tolist(), strict=True)]
