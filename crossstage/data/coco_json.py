"""Reads a COCO instances JSON into flat arrays and checks it completely.

A mistake in the file (a missing key, a duplicate id, an unknown image or category, a box that is inverted or not
finite) raises an `InputError` that names the file and the record. A useless box (without area, or outside its image)
is left out and counted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from crossstage.errors import InputError


@dataclass(frozen=True)
class CocoContents:
    """The I images of a file and their A boxes.

    Attributes:
        category_ids: the ids in the file, ascending; the class index is the position in this list.
        class_names: the name of each class, by class index.
        image_ids: int64 [I].
        file_names: the file name of each image.
        sizes: int64 [I, 2], (height, width) of each image.
        boxes_xyxy: float32 [A, 4], absolute, clipped to the image.
        labels: class indices, int64 [A].
        first: int64 [I + 1]; the boxes and labels of image i are the rows first[i]:first[i + 1].
        crowd: number of crowd regions, which are left out.
        zero_area: number of boxes without area, which are left out.
        outside: number of boxes outside their image, which are left out.
    """

    category_ids: list[int]
    class_names: list[str]
    image_ids: np.ndarray
    file_names: list[str]
    sizes: np.ndarray
    boxes_xyxy: np.ndarray
    labels: np.ndarray
    first: np.ndarray
    crowd: int
    zero_area: int
    outside: int


def read_coco(json_file: str | Path) -> CocoContents:
    """Read and check a file.

    Raises:
        InputError: for a mistake in the file; names the record.
    """
    content = _load(Path(json_file))
    images = _Records(json_file, "images", content["images"])
    categories = _Records(json_file, "categories", content["categories"])
    if not len(images):
        raise InputError(f'{json_file}: "images" is empty; expected at least one image')
    if not len(categories):
        raise InputError(f'{json_file}: "categories" is empty; expected at least one category with "id" and "name"')
    category_ids = categories.unique_ids()
    names = categories.column("name", (str,), "a string")
    by_id = np.argsort(category_ids)
    image_ids = images.unique_ids()
    sizes = np.stack([images.integers("height"), images.integers("width")], axis=1)
    for row in np.nonzero((sizes <= 0).any(1))[0].tolist():
        images.complain(row, f"has height {sizes[row, 0]} and width {sizes[row, 1]}; expected positive numbers")
    boxes = _read_boxes(_Records(json_file, "annotations", content["annotations"]), image_ids, sizes, category_ids)
    return CocoContents(
        category_ids=category_ids[by_id].tolist(),
        class_names=[names[row] for row in by_id],
        image_ids=image_ids,
        file_names=images.column("file_name", (str,), "a string"),
        sizes=sizes,
        **boxes,
    )


class _Records:
    """One of the lists of the file, read by columns. A column is checked as a whole; only if that fails, by record."""

    def __init__(self, json_file: str | Path, name: str, records: list[dict[str, Any]]) -> None:
        self.json_file = json_file
        self.name = name
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def complain(self, row: int, what: str) -> NoReturn:
        """Raise the InputError for one record, which is named by its id if it has one."""
        record = self.records[row]
        identity = record.get("id") if isinstance(record, dict) else None
        singular = {"images": "image", "annotations": "annotation", "categories": "category"}[self.name]
        named = f"{singular} {identity}" if identity is not None else f"{self.name}[{row}]"
        if self.name == "images" and isinstance(record.get("file_name"), str):
            named += f" ({record['file_name']})"
        raise InputError(f"{self.json_file}: {named} {what}")

    def column(self, key: str, types: tuple[type, ...], expected: str) -> list[Any]:
        """The values under `key`, whose exact types must be among `types`."""
        try:
            values = [record[key] for record in self.records]
        except (KeyError, TypeError, IndexError):
            values = [None]
        if set(map(type, values)) <= set(types):
            return values
        for row, record in enumerate(self.records):
            if not isinstance(record, dict):
                raise InputError(
                    f"{self.json_file}: {self.name}[{row}] is {record!r:.60}; expected an object in braces"
                )
            if key not in record:
                self.complain(row, f'has no "{key}"; expected {expected}')
            if type(record[key]) not in types:
                self.complain(row, f'has "{key}": {json.dumps(record[key]):.60}; expected {expected}')
        raise AssertionError("unreachable: one of the records is at fault")

    def integers(self, key: str) -> np.ndarray:
        """The whole numbers under `key`, int64 [R]."""
        values = self.column(key, (int,), "a whole number")
        for row in (row for row, value in enumerate(values) if abs(value) >= 2**63):
            self.complain(row, f'has "{key}": {values[row]}; expected a number of at most 63 bits')
        return np.array(values, np.int64)

    def unique_ids(self) -> np.ndarray:
        """The ids, int64 [R]; each must occur only once."""
        ids = self.integers("id")
        found, counts = np.unique(ids, return_counts=True)
        for position in np.nonzero(counts > 1)[0][:1]:
            where = f"occurs {counts[position]} times in {self.name!r}; each id may name one record"
            raise InputError(f"{self.json_file}: {self.name} id {found[position]} {where}")
        return ids

    def references(self, key: str, ids: np.ndarray, name: str) -> np.ndarray:
        """The rows of `ids` that the values under `key` refer to, int64 [R]; `name` is the list that holds the ids."""
        values = self.integers(key)
        order = np.argsort(ids)
        rows = order[np.searchsorted(ids, values, sorter=order).clip(max=len(ids) - 1)]
        for row in np.nonzero(ids[rows] != values)[0].tolist():
            self.complain(
                row, f'has "{key}": {values[row]}, which is not in {name!r}; add it there or remove the annotation'
            )
        return rows

    def boxes(self) -> np.ndarray:
        """The values under "bbox" as float64 [R, 4]: x, y, width, height. They are finite, the sizes not negative."""
        lists = self.column("bbox", (list,), "a list [x, y, width, height]")
        if set(map(len, lists)) - {4} or set(map(type, chain.from_iterable(lists))) - {int, float}:
            for row, box in enumerate(lists):
                if len(box) != 4 or {type(number) for number in box} - {int, float}:
                    self.complain(row, f"has bbox {json.dumps(box):.80}; expected four numbers x, y, width, height")
        boxes = np.array(lists, np.float64).reshape(-1, 4)
        for row in np.nonzero(~np.isfinite(boxes).all(1))[0].tolist():
            self.complain(row, f"has bbox {json.dumps(lists[row])}; expected finite numbers")
        for row in np.nonzero((boxes[:, 2:] < 0).any(1))[0].tolist():
            self.complain(
                row, f"has bbox {json.dumps(lists[row])}; width and height may not be negative (COCO: x, y, w, h)"
            )
        return boxes


def _load(json_file: Path) -> dict[str, list]:
    try:
        with open(json_file, "rb") as file:
            content = json.load(file)
    except FileNotFoundError as error:
        raise InputError(
            f"{json_file}: no such file; expected COCO annotations there (dataloader.root is the folder that holds "
            "annotations/, train2017/ and val2017/)"
        ) from error
    except OSError as error:
        raise InputError(f"{json_file}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{json_file}: is not JSON, or is truncated ({error}); expected COCO annotations") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise InputError(
                f'{json_file}: has no list "{key}"; expected COCO\'s "images", "annotations", "categories"'
            )
    return content


def _read_boxes(
    annotations: _Records, image_ids: np.ndarray, sizes: np.ndarray, category_ids: np.ndarray
) -> dict[str, Any]:
    """The fields of CocoContents that come from the annotations."""
    annotations.unique_ids()
    image = annotations.references("image_id", image_ids, "images")
    category = annotations.references("category_id", category_ids, "categories")
    labels = np.argsort(np.argsort(category_ids))[category]
    corners = annotations.boxes()
    has_area = (corners[:, 2:] > 0).all(1)
    corners[:, 2:] += corners[:, :2]
    height, width = sizes[image].T
    limits = np.stack([width, height, width, height], axis=1)
    boxes = np.clip(corners, 0, limits).astype(np.float32)
    inside = (boxes[:, 2:] > boxes[:, :2]).all(1)
    crowd = np.array([bool(record.get("iscrowd", 0)) for record in annotations.records], bool)
    keep = ~crowd & has_area & inside
    rows = np.nonzero(keep)[0]
    rows = rows[np.argsort(image[rows], kind="stable")]
    return {
        "boxes_xyxy": boxes[rows],
        "labels": labels[rows].astype(np.int64),
        "first": np.concatenate([[0], np.cumsum(np.bincount(image[rows], minlength=len(image_ids)))]),
        "crowd": int(crowd.sum()),
        "zero_area": int((~crowd & ~has_area).sum()),
        "outside": int((~crowd & has_area & ~inside).sum()),
    }
