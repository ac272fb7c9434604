"""The objects of a data set that are used in training, and what looks wrong with the annotations."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass

import numpy as np

from crossstage.data.coco_json import CocoContents

BEYOND = 1.0  # pixels; annotation tools round, so that a box may reach this far beyond its picture
MANY = 20  # boxes from which on a property of all of them is no coincidence
QUESTION = "is bbox x, y, width, height in pixels?"


@dataclass(frozen=True)
class Objects:
    """The T objects of a file that training uses, sorted by image.

    Attributes:
        boxes_xyxy: float32 [T, 4], absolute, clipped to the image.
        labels: class indices, int64 [T].
        first: int64 [I + 1]; the objects of image i are the rows first[i]:first[i + 1].
        crowd: number of crowd regions, which are left out.
        zero_area: number of boxes without area, which are left out.
        outside: number of boxes outside their image, which are left out.
    """

    boxes_xyxy: np.ndarray
    labels: np.ndarray
    first: np.ndarray
    crowd: int
    zero_area: int
    outside: int


def used_objects(contents: CocoContents) -> Objects:
    """The objects that training uses: no crowd regions, and only boxes that have an area inside their image."""
    has_area, boxes = (contents.boxes_xywh[:, 2:] > 0).all(1), clipped(contents)
    inside = (boxes[:, 2:] > boxes[:, :2]).all(1)
    rows = np.nonzero(~contents.crowd & has_area & inside)[0]
    rows = rows[np.argsort(contents.image_rows[rows], kind="stable")]
    counts = np.bincount(contents.image_rows[rows], minlength=len(contents.image_ids))
    return Objects(
        boxes_xyxy=boxes[rows],
        labels=contents.labels[rows].astype(np.int64),
        first=np.concatenate([[0], np.cumsum(counts)]),
        crowd=int(contents.crowd.sum()),
        zero_area=int((~contents.crowd & ~has_area).sum()),
        outside=int((~contents.crowd & has_area & ~inside).sum()),
    )


def clipped(contents: CocoContents) -> np.ndarray:
    """The boxes inside their images, float32 [A, 4], absolute xyxy."""
    corners = contents.boxes_xywh.copy()
    corners[:, 2:] += corners[:, :2]
    height, width = contents.sizes[contents.image_rows].T
    return np.clip(corners, 0, np.stack([width, height, width, height], axis=1)).astype(np.float32)


def findings(contents: CocoContents, objects: Objects) -> list[str]:
    """What is left out, and what looks wrong with the annotations although each is valid: a line each, with counts."""
    dropped = []
    if objects.zero_area or objects.outside:
        dropped = [f"dropped {objects.zero_area} boxes without area and {objects.outside} outside their image"]
    return [*dropped, *_format_of_boxes(contents), *_areas(contents), *_duplicates(contents)]


def _format_of_boxes(contents: CocoContents) -> list[str]:
    """Boxes that look like corners, like normalised values, or as if they belonged to a picture of another size."""
    single = ~contents.crowd
    x, y, w, h = contents.boxes_xywh[single].T
    height, width = contents.sizes[contents.image_rows[single]].T
    number = len(x)
    beyond = ~(_inside(x, width, w) & _inside(y, height, h))
    tiny = (w < 1) & (h < 1) & (w > 0) & (h > 0)
    found = []
    if tiny.any():
        normalised = f"{QUESTION} (they look divided by the picture's size)" if tiny.mean() > 0.5 else QUESTION
        found.append(f"{tiny.sum()} of {number} boxes are smaller than one pixel: {normalised}")
    if beyond.any():
        as_corners = (w >= x) & (h >= y) & (w <= width + BEYOND) & (h <= height + BEYOND)
        exchanged = _inside(y, width, h) & _inside(x, height, w)
        question = QUESTION
        if as_corners.mean() > 0.99:
            question += " (read as corners x0, y0, x1, y1, all would lie inside)"
        elif (_inside(x - w / 2, width, w) & _inside(y - h / 2, height, h)).mean() > 0.99:
            question += " (with x and y as the centre, all would lie inside)"
        elif exchanged.mean() > 0.99:
            question += " (with x and y exchanged, all would lie inside)"
        where = "reach beyond their image by more than a pixel and are clipped"
        found.append(f"{beyond.sum()} of {number} boxes {where}: {question}")
    elif number >= MANY and tiny.mean() < 0.5 and max((x + w) / width) < 0.5 and max((y + h) / height) < 0.5:
        found.append(
            f"all {number} boxes lie in the upper left quarter of their images: {QUESTION} (or is it in percent, or "
            "in pixels of a smaller copy of the images?)"
        )
    return found


def _inside(start: np.ndarray, limit: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Whether intervals lie between 0 and a limit, up to `BEYOND` pixels, bool [A]."""
    return (start >= -BEYOND) & (start + length <= limit + BEYOND)


def _areas(contents: CocoContents) -> list[str]:
    """Areas by which evaluation would sort objects into the wrong sizes."""
    of_box = contents.boxes_xywh[:, 2] * contents.boxes_xywh[:, 3]
    wrong = (contents.areas > 1.05 * of_box + 1) | ((contents.areas == 0) & (of_box > 0))
    if not wrong.any():
        return []
    return [
        f'{wrong.sum()} of {len(wrong)} annotations have an "area" of 0 or larger than their box; APs, APm and APl '
        "sort objects by it"
    ]


def _duplicates(contents: CocoContents) -> list[str]:
    """Files that are listed more than once, and objects that are annotated more than once."""
    found = []
    names = Counter(map(os.path.normpath, contents.file_names))
    if repeated := [name for name, count in names.items() if count > 1]:
        entries = sum(names[name] for name in repeated)
        found.append(
            f"{len(repeated)} files are listed more than once, as {entries} images ({repeated[0]}, ...): each entry "
            "counts as an image of its own, with only the objects of its id; expected one image per file"
        )
    if again := int(repeated_objects(contents).sum()):
        found.append(
            f"{again} annotations repeat another one of the same image, class and box; a detector can find only one "
            "of them; remove the others"
        )
    return found


def repeated_objects(contents: CocoContents) -> np.ndarray:
    """Whether an annotation repeats an earlier one with the same image, class, box and kind, bool [A]."""
    columns = [contents.image_rows, contents.labels, contents.crowd, *contents.boxes_xywh.T.copy().view(np.int64)]
    mixed = np.zeros(len(contents.labels), np.uint64)  # a hash per annotation: sorting numbers is faster than rows
    for column in columns:
        mixed = (mixed ^ column.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    again = np.ones(len(mixed), bool)
    again[np.unique(mixed, return_index=True)[1]] = False
    return again
