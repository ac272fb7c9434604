"""What looks wrong with valid annotations is told with counts and a question; sound data is silent."""

import numpy as np
import pytest

from crossstage.data.coco_json import CocoContents, read_coco
from crossstage.data.objects import findings, used_objects

SIZE = (480, 640)  # height, width


def sound(number: int = 60) -> np.ndarray:
    """Boxes x, y, width, height inside the picture, everywhere in it."""
    rng = np.random.default_rng(0)
    size = rng.uniform(10, 200, (number, 2))
    place = rng.uniform(0, 1, (number, 2)) * (np.array([640, 480]) - size)
    return np.concatenate([place, size], 1)


def as_corners(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)


def with_one(box: list[float]) -> np.ndarray:
    return np.concatenate([sound(), [box]])


SCALE = np.array([640, 480, 640, 480])
BOXES = {
    "sound": (sound(), []),
    "one large object": (np.array([[0, 0, 640, 480.0]]), []),
    "rounded by less than a pixel": (with_one([600, 400, 40.9, 80.9]), []),
    "corners": (as_corners(sound()), ["60 boxes reach beyond", "read as corners x0, y0, x1, y1, all would lie inside"]),
    "a few corners": (np.array([[300, 200, 400, 300.0]] * 2), ["2 of 2 boxes reach beyond", "read as corners"]),
    "the centre": (
        sound() + np.concatenate([sound()[:, 2:] / 2, np.zeros((60, 2))], 1),
        ["boxes reach beyond", "with x and y as the centre, all would lie inside"],
    ),
    "x and y exchanged": (
        np.concatenate([sound()[:, [1, 0, 3, 2]], [[10.0, 500, 30, 100]]]),
        ["boxes reach beyond", "with x and y exchanged, all would lie inside"],
    ),
    "normalised": (sound() / SCALE, ["60 of 60 boxes are smaller than one pixel", "divided by the picture's size"]),
    "some normalised": (
        np.concatenate([sound(), sound(3) / SCALE]),
        ["3 of 63 boxes are smaller than one pixel: is bbox x, y, width, height in pixels?"],
    ),
    "in thousandths": (sound() / SCALE * 1000, ["boxes reach beyond", "is bbox x, y, width, height in pixels?"]),
    "in percent": (sound() / SCALE * 100, ["all 60 boxes lie in the upper left quarter", "in percent"]),
    "of a smaller copy": (sound() * 0.4, ["all 60 boxes lie in the upper left quarter", "a smaller copy"]),
    "one beyond the right edge": (with_one([600, 100, 60, 60]), ["1 of 61 boxes reach beyond their image by more"]),
    "one beyond the left edge": (with_one([-20, 100, 60, 60]), ["1 of 61 boxes reach beyond their image by more"]),
    "one outside": (with_one([700, 100, 60, 60]), ["dropped 0 boxes without area and 1 outside", "1 of 61 boxes"]),
    "one without area": (with_one([70, 100, 0, 60]), ["dropped 1 boxes without area and 0 outside"]),
    "one twice": (with_one(sound()[0].tolist()), ["1 annotations repeat another one"]),
}


def contents_of(coco_folder, boxes: np.ndarray, edit=lambda content: None) -> CocoContents:
    annotations = [{"image_id": 100, "bbox": box} for box in boxes.tolist()]
    return read_coco(coco_folder([SIZE], annotations, edit) / "instances.json")


def told(contents: CocoContents) -> str:
    return "\n".join(findings(contents, used_objects(contents)))


@pytest.mark.parametrize("case", BOXES)
def test_boxes_in_another_format_are_told_with_counts_and_the_question(coco_folder, case):
    boxes, expected = BOXES[case]
    said = told(contents_of(coco_folder, boxes))
    assert all(phrase in said for phrase in expected), said
    assert bool(said) == bool(expected), said


def list_twice(content):
    content["images"].append({**content["images"][0], "id": 7, "file_name": "./0.jpg"})


def make_crowd(content):
    content["annotations"].append({**content["annotations"][0], "id": 900, "iscrowd": 1})


def another_class(content):
    content["annotations"].append({**content["annotations"][0], "id": 900, "category_id": 7})


EDITS = {
    "a file twice": (list_twice, "1 files are listed more than once, as 2 images (0.jpg, ...)"),
    "area 0": (lambda content: content["annotations"][3].update(area=0), '1 of 60 annotations have an "area" of 0'),
    "area of another box": (lambda content: content["annotations"][3].update(area=1e6), "1 of 60 annotations have"),
    "a crowd region around an object": (make_crowd, ""),
    "another class at the same place": (another_class, ""),
}


@pytest.mark.parametrize("case", EDITS)
def test_duplicates_and_areas_are_told(coco_folder, case):
    edit, expected = EDITS[case]
    said = told(contents_of(coco_folder, sound(), edit))
    assert expected in said and bool(said) == bool(expected)
