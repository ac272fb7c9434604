"""Reads a COCO instances JSON into flat arrays and checks every field that is used.

The JSON is decoded into typed structs by msgspec; fields that are not used (such as segmentations) are skipped. A
mistake (a missing key, a wrong type, a duplicate id, an unknown image or category, a box that is inverted or not
finite) raises an `InputError` that names the file and the record.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import UNSET, Meta, Struct, UnsetType

from crossstage.data.json_mistakes import explain, named
from crossstage.errors import InputError

Id = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Side = Annotated[int, Meta(gt=0, le=2**31)]


class ImageRecord(Struct, gc=False):
    """The fields of an image that are used; height and width in pixels."""

    id: Id
    file_name: Annotated[str, Meta(min_length=1)]
    height: Side
    width: Side


class CategoryRecord(Struct, gc=False):
    """The fields of a category that are used."""

    id: Id
    name: str


class AnnotationRecord(Struct, gc=False):
    """The fields of an annotation that are used; `bbox` is x, y, width, height in pixels."""

    id: Id
    image_id: Id
    category_id: Id
    bbox: tuple[float, float, float, float]
    area: Annotated[float, Meta(ge=0)] | UnsetType = UNSET
    iscrowd: Literal[0, 1] | bool = 0


class InstancesFile(Struct):
    """A COCO instances JSON."""

    images: list[ImageRecord]
    annotations: list[AnnotationRecord]
    categories: list[CategoryRecord]


class CategoriesOfFile(Struct):
    """The categories of a COCO instances JSON alone; decoding skips everything else."""

    categories: list[CategoryRecord]


class FileNameOfImage(Struct, gc=False):
    """The file name of an image alone."""

    file_name: Annotated[str, Meta(min_length=1)]


class FileNamesOfFile(Struct):
    """The file names of a COCO instances JSON alone."""

    images: Annotated[list[FileNameOfImage], Meta(min_length=1)]


@dataclass(frozen=True)
class CocoContents:
    """The I images of a file and their A annotations, in the order of the file.

    Attributes:
        json_file: the file.
        class_names: the name of each class, by class index.
        category_ids: the id of each class in this file; None for a class that the file does not list.
        image_ids: int64 [I].
        file_names: the file name of each image.
        sizes: int64 [I, 2], (height, width) of each image.
        annotation_ids: int64 [A].
        image_rows: int64 [A], the position of each annotation's image in `image_ids`.
        labels: class indices, int64 [A].
        boxes_xywh: float64 [A, 4]: x, y, width, height in pixels, as the file has them. Finite; sizes not negative.
        areas: float64 [A], in pixels; that of the box where the file has none.
        crowd: bool [A], whether an annotation is a crowd region.
    """

    json_file: str
    class_names: list[str]
    category_ids: list[int | None]
    image_ids: np.ndarray
    file_names: list[str]
    sizes: np.ndarray
    annotation_ids: np.ndarray
    image_rows: np.ndarray
    labels: np.ndarray
    boxes_xywh: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray


def read_coco(json_file: str | Path) -> CocoContents:
    """Read and check a file. A file that was read before and has not changed since is not read again.

    Args:
        json_file: the file.

    Returns:
        The contents. The class index is the position in the ascending category ids.

    Raises:
        InputError: for a mistake in the file; names the record.
    """
    path = Path(json_file).expanduser()
    try:
        stamp = os.stat(path)
    except OSError:
        return _read(str(path))  # raises the error that says what is wrong
    return _read_once(str(path), stamp.st_mtime_ns, stamp.st_size)


def read_class_names(json_file: str | Path) -> list[str]:
    """The class names of a file by class index. Only the categories are decoded. Raises InputError as `read_coco`."""
    path = str(Path(json_file).expanduser())
    categories = decode_json(path, CategoriesOfFile).categories
    return [category.name for category in sorted(categories, key=_id)]


def read_file_names(json_file: str | Path) -> list[str]:
    """The file names of the images alone, at least one. Raises InputError as `read_coco`."""
    return [image.file_name for image in decode_json(str(json_file), FileNamesOfFile).images]


@lru_cache(maxsize=2)  # a training set and its validation set, which loader and evaluator both read
def _read_once(path: str, _modified: int, _size: int) -> CocoContents:
    return _read(path)


def _read(path: str) -> CocoContents:
    file = decode_json(path, InstancesFile)
    if (first := next(_mistakes(file), None)) is not None:
        raise InputError(f"{path}: {first}")
    categories = sorted(file.categories, key=_id)
    records, image_ids = file.annotations, _column(file.images, "id")
    category_ids = [category.id for category in categories]
    boxes, areas = _boxes(records), _areas(records)
    return CocoContents(
        json_file=path,
        class_names=[category.name for category in categories],
        category_ids=list(category_ids),
        image_ids=image_ids,
        file_names=[image.file_name for image in file.images],
        sizes=np.stack([_column(file.images, "height"), _column(file.images, "width")], axis=1),
        annotation_ids=_column(records, "id"),
        image_rows=_positions(_column(records, "image_id"), image_ids),
        labels=_positions(_column(records, "category_id"), np.array(category_ids)),
        boxes_xywh=boxes,
        areas=np.where(areas < 0, boxes[:, 2] * boxes[:, 3], areas),
        crowd=np.fromiter((record.iscrowd for record in records), bool, len(records)),
    )


def all_mistakes(json_file: str | Path) -> list[str]:
    """All mistakes of a file, where `read_coco` raises an error for the first one.

    Mistakes of ids, references and boxes are found only if all fields have the right type.
    """
    path = str(json_file)
    try:
        return list(_mistakes(decode_json(path, InstancesFile)))
    except InputError as error:
        first = str(error).removeprefix(f"{path}: ")
    try:
        content = _lenient(path, Path(path).read_bytes())
    except (OSError, InputError):
        return [first]
    kinds = {"images": ImageRecord, "categories": CategoryRecord, "annotations": AnnotationRecord}
    if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in kinds):
        return [first]
    found = []
    for name, kind in kinds.items():
        for row, record in enumerate(content[name]):
            try:
                msgspec.convert(record, type=kind)
            except msgspec.ValidationError as error:
                message, _, place = str(error).partition(" - at `$")
                found.append(explain(f"{message} - at `$.{name}[{row}]{place}", content))
    return found


def _mistakes(file: InstancesFile) -> Iterator[str]:
    """Mistakes in a file whose fields have the right types, one line each."""
    for name, needs in (("images", "one image"), ("categories", 'one category with "id" and "name"')):
        if not getattr(file, name):
            yield f'"{name}" is empty; expected at least {needs}'
    ids = {name: _column(getattr(file, name), "id") for name in ("images", "categories", "annotations")}
    for name, numbers in ids.items():
        found, counts = np.unique(numbers, return_counts=True)
        for number, count in zip(found[counts > 1].tolist(), counts[counts > 1].tolist(), strict=True):
            yield f"{name} id {number} occurs {count} times in {name!r}; each id may name one record"
    records = file.annotations
    for key, name in (("image_id", "images"), ("category_id", "categories")):
        values = _column(records, key)
        for row in np.nonzero(~np.isin(values, ids[name]))[0].tolist():
            where = f"which is not in {name!r}; add it there or remove the annotation"
            yield f'{_annotation(records[row])} has "{key}": {values[row]}, {where}'
    boxes = _boxes(records)
    for row in np.nonzero(~np.isfinite(boxes).all(1))[0].tolist():
        yield f"{_annotation(records[row])} has bbox {json.dumps(records[row].bbox)}; expected finite numbers"
    for row in np.nonzero((boxes[:, 2:] < 0).any(1))[0].tolist():
        says = "width and height may not be negative (COCO: x, y, w, h)"
        yield f"{_annotation(records[row])} has bbox {json.dumps(records[row].bbox)}; {says}"
    for row in np.nonzero(~np.isfinite(_areas(records)))[0].tolist():
        yield f'{_annotation(records[row])} has "area": {json.dumps(records[row].area)}; expected a finite number'


def _boxes(records: list[AnnotationRecord]) -> np.ndarray:
    """The boxes as they are written, float64 [A, 4]."""
    numbers = chain.from_iterable(record.bbox for record in records)
    return np.fromiter(numbers, np.float64, 4 * len(records)).reshape(-1, 4)


def _areas(records: list[AnnotationRecord]) -> np.ndarray:
    """The areas as they are written, float64 [A]; -1 where there is none."""
    return np.array([-1.0 if record.area is UNSET else record.area for record in records], np.float64)


def _positions(values: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The position in `ids` of each value, which must be among them, int64 [A]."""
    order = np.argsort(ids)
    return order[np.searchsorted(ids, values, sorter=order)]


def _column(records: list[Any], key: str) -> np.ndarray:
    return np.fromiter((getattr(record, key) for record in records), np.int64, len(records))


def _annotation(record: AnnotationRecord) -> str:
    return named("annotations", {"id": record.id})


def _id(record: CategoryRecord) -> int:
    return record.id


def decode_json(path: str, kind: type[Any]) -> Any:
    """Read a JSON file into a struct.

    Args:
        path: the file.
        kind: the type of the struct.

    Returns:
        The struct.

    Raises:
        InputError: if the file is missing, is not JSON, or has a field of another type; names the record.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: no such file; expected COCO annotations there (dataloader.data=FOLDER finds the files of the "
            "usual layouts; dataloader.root is the folder that holds annotations/, train2017/ and val2017/)"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: {explain(str(error), msgspec.json.decode(data))}") from error
    except (msgspec.DecodeError, RecursionError):
        content = _lenient(path, data)
    try:
        return msgspec.convert(content, type=kind)
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: {explain(str(error), content)}") from error


def _lenient(path: str, data: bytes) -> Any:
    """The content of a JSON that msgspec refuses but Python writes: with NaN, Infinity or a byte-order mark."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not JSON, or is truncated ({error}); expected COCO annotations") from error
