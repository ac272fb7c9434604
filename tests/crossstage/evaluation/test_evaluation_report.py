"""Each wrong detection has one kind, and a kind's cost is the AP50 that correcting it would bring."""

import json

import numpy as np
import pytest
from PIL import Image

from crossstage.evaluation import CocoEvaluator
from crossstage.evaluation.mistakes import Scene, judge, overlaps
from crossstage.evaluation.report import report, write_report

A, B = [10, 10, 60, 60], [100, 10, 160, 70]  # objects of classes 0 and 1


def shifted(box: list[float], x: float) -> list[float]:
    return [box[0] + x, box[1], box[2] + x, box[3]]


PICTURES = {  # three pictures with objects A and B; their detections, and the kinds of these
    1: [
        ((A, 0.9, 0), "hit"),
        ((A, 0.8, 0), "duplicate"),
        ((B, 0.7, 0), "classification"),
        (([200, 150, 240, 190], 0.6, 1), "background"),
    ],
    2: [
        ((shifted(A, 25), 0.9, 0), "localisation"),  # IoU 1/3
        ((B, 0.5, 1), "hit"),
    ],
    3: [
        ((shifted(B, 30), 0.9, 0), "both"),  # IoU 1/3 with the other class
        ((B, 0.8, 1), "hit"),
    ],  # A is missed
}


def scene(rows, objects=((A, 0), (B, 1)), crowd=None) -> Scene:
    boxes, scores, labels = zip(*rows, strict=True) if rows else ((), (), ())
    return Scene(
        image_id=1,
        boxes_xyxy=np.array(boxes, float).reshape(-1, 4),
        scores=np.array(scores, float),
        labels=np.array(labels, int),
        object_boxes_xyxy=np.array([box for box, _ in objects], float).reshape(-1, 4),
        object_labels=np.array([label for _, label in objects], int),
        crowd=np.zeros(len(objects), bool) if crowd is None else np.array(crowd),
    )


@pytest.mark.parametrize(("image", "missed"), [(1, ()), (2, ()), (3, (0,))])
def test_three_pictures_hold_one_mistake_of_each_kind(image, missed):
    judgement = judge(scene([row for row, _ in PICTURES[image]]))
    assert judgement.kinds == tuple(kind for _, kind in PICTURES[image])
    assert judgement.missed == missed


@pytest.mark.parametrize(
    ("rows", "kinds", "missed", "why"),
    [
        ([], (), (0, 1), "nothing is detected"),
        ([(A, 0.4, 0), (shifted(A, 5), 0.9, 0)], ("duplicate", "hit"), (1,), "scores decide, given by descending ones"),
        ([(shifted(A, 45), 0.9, 0)], ("background",), (0, 1), "IoU 0.05"),
        ([(shifted(A, 40), 0.9, 0)], ("localisation",), (1,), "IoU 0.11"),
        ([(A, 0.9, 1), (A, 0.8, 0)], ("classification", "hit"), (1,), "the object is found all the same"),
    ],
)
def test_kinds(rows, kinds, missed, why):
    ordered = sorted(rows, key=lambda row: -row[1])
    judgement = judge(scene(ordered))
    found = dict(zip(map(str, ordered), judgement.kinds, strict=True))
    assert tuple(found[str(row)] for row in rows) == kinds, why
    assert judgement.missed == missed, why


def test_a_detection_in_a_crowd_is_ignored_and_a_crowd_is_not_missed():
    judgement = judge(scene([(A, 0.9, 0)], objects=[([0, 0, 300, 300], 0)], crowd=[True]))
    assert judgement.kinds == ("ignored",) and judgement.missed == ()
    assert overlaps(np.array([A], float), np.array([[0, 0, 300, 300]], float), np.array([True]))[0, 0] == 1


@pytest.fixture
def evaluator(tmp_path) -> CocoEvaluator:
    """The three pictures as files, with their detections as if a model had been evaluated."""
    annotations, results = [], []
    for image, rows in PICTURES.items():
        Image.new("RGB", (260, 200), (90, 120, 150)).save(tmp_path / f"{image}.jpg")
        for (x0, y0, x1, y1), category in ((A, 10), (B, 20)):
            size = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": 0}
            annotations.append({"id": len(annotations), "image_id": image, "category_id": category, **size})
        for ((x0, y0, x1, y1), score, label), _ in rows:
            box = [x0, y0, x1 - x0, y1 - y0]
            results.append({"image_id": image, "category_id": (10, 20)[label], "bbox": box, "score": score})
    content = {
        "images": [{"id": image, "file_name": f"{image}.jpg", "width": 260, "height": 200} for image in PICTURES],
        "categories": [{"id": 10, "name": "cat"}, {"id": 20, "name": "<dog>"}, {"id": 30, "name": r"$\q$"}],
        "annotations": annotations,
    }
    (tmp_path / "truth.json").write_text(json.dumps(content))
    made = CocoEvaluator(tmp_path / "truth.json")
    made.results = results
    return made


def numbers(evaluator: CocoEvaluator, results=None):
    return report(
        evaluator.truth,
        evaluator.results if results is None else results,
        class_names=evaluator.class_names,
        category_ids=evaluator.category_ids,
    )


def test_each_kind_is_counted_once_and_its_cost_is_not_negative(evaluator):
    made = numbers(evaluator)
    assert {kind: row["count"] for kind, row in made.mistakes.items()} == dict.fromkeys(made.mistakes, 1)
    assert all(row["cost_ap50"] >= 0 for row in made.mistakes.values())
    assert [entry["objects"] for entry in made.classes] == [3, 3, 0] and made.classes[2]["AP"] is None
    # Of the three cats, the best detection hits one, and no later one hits another: precision 1 up to recall 1/3.
    assert made.classes[0]["AP50"] == pytest.approx(100 * 34 / 101)
    assert made.confusion.tolist() == [[1, 0, 0, 2], [1, 2, 0, 0], [0, 0, 0, 0], [3, 1, 0, 0]]
    assert [scene.image_id for scene, _, _ in made.worst] == [1, 3, 2]


def test_classes_in_the_order_of_a_training_keep_their_own_numbers(evaluator, tmp_path):
    """The columns of COCO's curves follow the category ids; a training may list the classes in another order."""
    other = CocoEvaluator(tmp_path / "truth.json", classes=("owl", r"$\q$", "<dog>", "cat"))
    other.results = evaluator.results
    expected = {row["name"]: row for row in numbers(evaluator).classes}
    found = {row["name"]: row for row in numbers(other).classes}
    assert found.pop("owl") == {"name": "owl", "AP": None, "AP50": None, "objects": 0}
    assert found == expected


@pytest.mark.parametrize(
    ("kind", "image", "change"),
    [
        ("classification", 1, {"category_id": 20}),
        ("localisation", 2, {"bbox": [10, 10, 50, 50]}),
        ("duplicate", 1, None),
        ("background", 1, None),
        ("both", 3, None),
    ],
)
def test_the_cost_is_what_correcting_by_hand_brings(evaluator, kind, image, change):
    made = numbers(evaluator)
    position = [k for rows in PICTURES.values() for _, k in rows].index(kind)
    results = list(evaluator.results)
    assert results[position]["image_id"] == image
    results[position : position + 1] = [] if change is None else [{**results[position], **change}]
    assert made.mistakes[kind]["cost_ap50"] == pytest.approx(numbers(evaluator, results).ap50 - made.ap50)


def test_the_cost_of_missing_is_that_of_the_object(evaluator, tmp_path):
    made = numbers(evaluator)
    content = evaluator.truth
    evaluator._truth = {**content, "annotations": [a for a in content["annotations"] if a["id"] != 5]}
    assert content["annotations"][4]["image_id"] == 3 and content["annotations"][4]["category_id"] == 10
    assert made.mistakes["missed"]["cost_ap50"] == pytest.approx(numbers(evaluator).ap50 - made.ap50)


def test_the_page_has_its_pictures_and_the_json_is_strict(evaluator, tmp_path):
    page = write_report(evaluator, tmp_path / "report", image_root=tmp_path, about={"weights": "w.pth"})
    text = page.read_text()
    assert "&lt;dog&gt;" in text and "<dog>" not in text and "w.pth" in text
    for name in ("precision.png", "confusion.png", "pictures/1.jpg", "pictures/2.jpg", "pictures/3.jpg"):
        assert f'src="{name}"' in text and (tmp_path / "report" / name).stat().st_size > 1000
    content = json.loads((tmp_path / "report/report.json").read_text(), parse_constant=pytest.fail)
    assert content["mistakes"]["both"]["count"] == 1 and content["worst"][0]["image_id"] == 1
    (tmp_path / "1.jpg").unlink()
    write_report(evaluator, tmp_path / "report", image_root=tmp_path, about={})


def test_nothing_detected_is_all_missed(evaluator):
    made = numbers(evaluator, [])
    assert made.ap50 == 0 and made.mistakes["missed"]["count"] == 6
    assert made.mistakes["background"] == {"count": 0, "count_above_threshold": 0, "cost_ap50": 0.0}


def test_what_is_shown_is_judged_without_the_detections_below_the_threshold(evaluator):
    """A detection of score 0.2 hits an object: it is no mistake for the AP, and a missed object in the pictures."""
    results = [{**record, "score": 0.2} if record["score"] == 0.5 else record for record in evaluator.results]
    made = numbers(evaluator, results)
    assert made.mistakes["missed"]["count"] == 1 and made.mistakes["missed"]["count_above_threshold"] == 2
    assert {scene.image_id: judgement.missed for scene, judgement, _ in made.worst} == {1: (), 2: (1,), 3: (0,)}
    assert made.confusion[1].tolist() == [1, 1, 0, 1]
