"""The annotated objects that no detector can find, so that even perfect detections have less than 100 AP."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crossstage.data.coco_json import CocoContents
from crossstage.data.objects import clipped

HIGHEST_IOU = 0.95  # the highest threshold of COCO's AP


@dataclass(frozen=True)
class Reach:
    """What perfect detections inside the images can reach.

    Attributes:
        found: bool [A], the annotations that can be found, if there are not more of them than detections that count.
        boxes_xywh: float64 [A, 4], the best box inside the image for each annotation.
        problems: one phrase per kind of object that cannot be found, or only at low IoU thresholds; with its number.
    """

    found: np.ndarray
    boxes_xywh: np.ndarray
    problems: list[str]


def reach(contents: CocoContents, *, max_detections: int) -> Reach:
    """Find the objects that cannot be detected: without area, outside their image, or more than are counted.

    Args:
        contents: the annotations.
        max_detections: number of detections per image and class that count.

    Returns:
        The objects that can be found, and phrases about the others.
    """
    boxes = clipped(contents).astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    object_ = ~contents.crowd
    has_area = (contents.boxes_xywh[:, 2:] > 0).all(1)
    inside = (boxes[:, 2:] > 0).all(1)
    left = np.divide(boxes[:, 2:].prod(1), contents.boxes_xywh[:, 2:].prod(1), where=has_area, out=np.ones(len(boxes)))
    found = object_ & has_area & inside
    surplus = _rank_in_image_and_class(contents, found) >= max_detections
    numbers = [
        ((object_ & ~has_area).sum(), "without area"),
        ((object_ & has_area & ~inside).sum(), "outside their image"),
        ((found & (left < HIGHEST_IOU)).sum(), f"with less than {HIGHEST_IOU:.0%} of their box inside the image"),
        (
            surplus.sum(),
            f"more than max_detections={max_detections} per image and class (dataloader.evaluator.max_detections)",
        ),
    ]
    return Reach(found, boxes, [f"{number} {kind}" for number, kind in numbers if number])


def _rank_in_image_and_class(contents: CocoContents, among: np.ndarray) -> np.ndarray:
    """The position of each annotation among those of its image and class, int64 [A]; 0 for those not `among`."""
    rows = np.nonzero(among)[0]
    keys = contents.image_rows[rows] * len(contents.class_names) + contents.labels[rows]
    order = np.argsort(keys, kind="stable")
    _, first, counts = np.unique(keys[order], return_index=True, return_counts=True)
    ranks = np.zeros(len(contents.labels), np.int64)
    ranks[rows[order]] = np.arange(len(order)) - np.repeat(first, counts)
    return ranks
