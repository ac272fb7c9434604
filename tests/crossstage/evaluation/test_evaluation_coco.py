import contextlib
import io
import json
import math
import re

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import distributed, multiprocessing

from crossstage.data.coco_json import read_coco
from crossstage.errors import InputError, NonFiniteError
from crossstage.evaluation import CocoEvaluator, coco
from crossstage.structures import Detections, ImageBatch

CATEGORIES = [{"id": 9, "name": "dog"}, {"id": 4, "name": "cat"}, {"id": 30, "name": "cow"}]  # not in order of ids
CLASSES = ["cat", "dog", "cow"]  # by class index


def batch_of(*image_ids):
    """Evaluation reads the ids alone."""
    number = len(image_ids)
    return ImageBatch(
        pixels=torch.zeros(number, 3, 1, 1, dtype=torch.uint8),
        mask=torch.zeros(number, 1, 1, dtype=torch.bool),
        sizes=((1, 1),) * number,
        original_sizes=((1, 1),) * number,
        image_ids=image_ids,
    )


def detections(*rows):
    """rows: (corners, score, class index)."""
    boxes, scores, labels = zip(*rows, strict=True) if rows else ((), (), ())
    return Detections(
        torch.tensor(boxes).reshape(-1, 4).float(), torch.tensor(scores).float(), torch.tensor(labels).long()
    )


@pytest.fixture
def write(tmp_path):
    """Write a COCO JSON from {image id: [(x, y, w, h, category id, extra keys)]} and return its path."""

    def write_json(objects, categories=CATEGORIES, first_id=1):
        annotations = [
            {"image_id": image, "category_id": category, "bbox": box, "area": box[2] * box[3], "iscrowd": 0, **extra}
            for image, rows in objects.items()
            for *box, category, extra in rows
        ]
        content = {
            "images": [{"id": image, "file_name": f"{image}.jpg", "height": 400, "width": 500} for image in objects],
            "categories": categories,
            "annotations": [{"id": number, **record} for number, record in enumerate(annotations, start=first_id)],
        }
        path = tmp_path / "instances.json"
        path.write_text(json.dumps(content))
        return path

    return write_json


@pytest.fixture
def crowded(write):
    """30 images with all that makes COCO's protocol intricate, and detections for most of them."""
    random = np.random.default_rng(0)
    objects, found = {}, {}
    for image in range(100, 130):
        number = 0 if image % 7 == 0 else random.integers(1, 9)
        boxes = np.concatenate(
            [
                random.uniform(0, 250, (number, 2)),
                random.choice([10, 20, 60, 150], (number, 2)) + random.random((number, 2)),
            ],
            axis=1,
        )
        labels = random.integers(0, 3, number)
        ids = [4, 9, 30]
        objects[image] = [
            (*box.tolist(), ids[label], {"iscrowd": int(random.random() < 0.1), "area": float(box[2] * box[3] * 0.7)})
            for box, label in zip(boxes, labels, strict=True)
        ]
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        near = [corners + random.normal(0, 1, corners.shape) for _ in range(3)]
        noise = random.uniform(0, 250, (60, 4))
        noise[:, 2:] += noise[:, :2]
        rows = np.concatenate([*near, noise])
        classes = np.concatenate([labels, labels, random.integers(0, 3, number), random.integers(0, 3, len(noise))])
        scores = np.round(random.random(len(rows)), 1)  # ties
        found[image] = detections(*zip(rows.tolist(), scores.tolist(), classes.tolist(), strict=True))
    found[105] = detections()
    del found[110]
    return write(objects), found


def evaluated(evaluator, found):
    for image, of_image in found.items():
        evaluator.process(batch_of(image), [of_image])
    return evaluator.evaluate()["bbox"]


def test_pycocotools_agrees_on_all_numbers(crowded, tmp_path):
    json_file, found = crowded
    evaluator = CocoEvaluator(json_file, output_dir=tmp_path / "out")
    scores = evaluated(evaluator, found)
    records = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    curves = coco.evaluated_curves(coco.truth_records(read_coco(json_file)), records)
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = COCO(str(json_file))
        summary = COCOeval(theirs, theirs.loadRes(str(tmp_path / "out" / "coco_instances_results.json")), "bbox")
        summary.evaluate()
        summary.accumulate()
        summary.summarize()
    np.testing.assert_allclose(curves.precision, summary.eval["precision"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(curves.recall, summary.eval["recall"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(curves.twelve_numbers(), summary.stats, rtol=0, atol=1e-9)
    assert all(0.02 < number < 0.98 for number in summary.stats), "the case decides nothing"
    keys = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    np.testing.assert_allclose([scores[key] for key in keys], 100 * summary.stats[:6], rtol=0, atol=1e-7)
    assert list(scores) == [*keys, *(f"AP-{name}" for name in CLASSES)]
    assert np.mean([scores[f"AP-{name}"] for name in CLASSES]) == pytest.approx(scores["AP"])


def test_a_perfect_detector_has_100_percent_and_nan_where_there_is_nothing_to_find(write):
    json_file = write({1: [(10, 20, 50, 60, 9, {})], 2: [(0, 0, 300, 200, 9, {}), (5, 5, 40, 50, 4, {})], 3: []})
    found = {
        1: detections(([10, 20, 60, 80], 0.9, 1)),
        2: detections(([0, 0, 300, 200], 0.8, 1), ([5, 5, 45, 55], 0.7, 0)),
        3: detections(),
    }
    scores = evaluated(CocoEvaluator(json_file), found)
    for name in ("AP", "AP50", "AP75", "APm", "APl", "AP-cat", "AP-dog"):
        assert scores[name] == pytest.approx(100), name
    assert math.isnan(scores["APs"]) and math.isnan(scores["AP-cow"])


def test_known_precision(write):
    """A false alarm is surer than the only hit: precision 1/2 at every recall. IoU 0.82 passes 7 of 10 thresholds."""
    json_file = write({1: [(0, 0, 100, 100, 4, {})]})
    found = {1: detections(([200, 200, 260, 260], 0.9, 0), ([0, 0, 100, 82], 0.8, 0))}
    scores = evaluated(CocoEvaluator(json_file), found)
    assert scores["AP50"] == pytest.approx(50) and scores["AP"] == pytest.approx(35)


def test_categories_are_written_by_their_own_ids_and_boxes_as_xywh(write, tmp_path):
    json_file = write({7: [(10, 20, 30, 40, 30, {})]})
    evaluated(CocoEvaluator(json_file, output_dir=tmp_path), {7: detections(([10, 20, 40, 60], 0.5, 2))})
    expected = {"image_id": 7, "category_id": 30, "bbox": [10, 20, 30, 40], "score": 0.5}
    assert json.loads((tmp_path / "coco_instances_results.json").read_text()) == [expected]


def test_an_annotation_with_id_zero_or_without_area_can_be_found(write):
    """pycocotools takes id 0 for "not matched", and fails without area."""
    json_file = write({1: [(10, 20, 50, 60, 4, {})]}, first_id=0)
    content = json.loads(json_file.read_text())
    del content["annotations"][0]["area"], content["annotations"][0]["iscrowd"]
    json_file.write_text(json.dumps(content))
    scores = evaluated(CocoEvaluator(json_file), {1: detections(([10, 20, 60, 80], 0.9, 0))})
    assert scores["AP"] == pytest.approx(100) and scores["APm"] == pytest.approx(100)


@pytest.mark.parametrize("key", ["image_id", "category_id"])
def test_ids_that_no_float_can_tell_apart_are_told_apart(write, key):
    """Two images or classes whose ids are neighbours, with the boxes of both as detections of one."""
    large = 2**60
    json_file = write({1: [(10, 20, 50, 60, 4, {})], 2: [(100, 20, 50, 60, 9, {})]})
    content = json.loads(json_file.read_text())
    records = content["images" if key == "image_id" else "categories"]
    for record in (*records, *content["annotations"]):
        record["id" if record in records else key] += large
    json_file.write_text(json.dumps(content))
    first, second = (1 + large, 2 + large) if key == "image_id" else (1, 2)
    found = detections(([10, 20, 60, 80], 0.9, 0), ([100, 20, 150, 80], 0.9, 1))
    scores = evaluated(CocoEvaluator(json_file), {first: found, second: detections()})
    assert scores["AP-cat"] == pytest.approx(100) and scores["AP-dog"] == 0


def test_nothing_detected_is_zero_and_told(write, tmp_path, caplog):
    json_file = write({1: [(10, 20, 50, 60, 4, {})], 2: []})
    evaluator = CocoEvaluator(json_file, output_dir=tmp_path)
    scores = evaluated(evaluator, {1: detections(), 2: detections()})
    assert scores["AP"] == 0 and math.isnan(scores["APs"])
    assert "detected nothing" in caplog.text
    assert json.loads((tmp_path / "coco_instances_results.json").read_text()) == []


def test_images_that_were_left_out_are_told(write, caplog):
    json_file = write({1: [(10, 20, 50, 60, 4, {})], 2: [(10, 20, 50, 60, 4, {})]})
    scores = evaluated(CocoEvaluator(json_file), {1: detections(([10, 20, 60, 80], 0.9, 0))})
    assert scores["AP"] == pytest.approx(50, abs=1) and "1 of 2 images were evaluated" in caplog.text


def test_an_image_that_comes_twice_counts_once_and_reset_forgets(write, caplog):
    json_file = write({1: [(10, 20, 50, 60, 4, {})]})
    evaluator = CocoEvaluator(json_file)
    right, wrong = detections(([10, 20, 60, 80], 0.8, 0)), detections(([100, 100, 160, 180], 0.9, 0))
    evaluator.process(batch_of(1, 1), [right, wrong])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)
    evaluator.reset()
    evaluator.process(batch_of(1), [wrong])
    assert evaluator.evaluate()["bbox"]["AP"] == 0


def test_max_detections_limits_an_image_and_class(write):
    json_file = write({1: [(10, 20, 50, 60, 4, {})]})
    found = {1: detections(*[([200, 200, 260, 260], 0.9, 0)] * 3, ([10, 20, 60, 80], 0.8, 0))}
    assert evaluated(CocoEvaluator(json_file, max_detections=3), found)["AP"] == 0
    assert evaluated(CocoEvaluator(json_file, max_detections=4), found)["AP"] == pytest.approx(25)


def test_detections_that_cannot_be_are_refused(write):
    json_file = write({1: []})
    box = [1, 2, 3, 4]
    cases = [
        (2, detections((box, 0.5, 0)), InputError, "has no image 2"),
        (1, detections((box, 0.5, 3)), InputError, "class 3 was detected; expected model.num_classes=3"),
        (1, detections((box, 0.5, -1)), InputError, "class -1"),
        (1, detections((box, math.nan, 0)), NonFiniteError, "image 1"),
        (1, detections(([1, 2, math.inf, 4], 0.5, 0)), NonFiniteError, "image 1"),
    ]
    for image, found, error, message in cases:
        with pytest.raises(error, match=message):
            CocoEvaluator(json_file).process(batch_of(image), [found])


def test_two_categories_of_one_name_both_have_their_ap(write):
    json_file = write({1: [(10, 20, 50, 60, 5, {})]}, categories=[{"id": 5, "name": "cat"}, {"id": 6, "name": "cat"}])
    scores = evaluated(CocoEvaluator(json_file), {1: detections(([10, 20, 60, 80], 0.9, 0))})
    assert scores["AP-cat (5)"] == pytest.approx(100) and math.isnan(scores["AP-cat (6)"])


def test_bad_settings_are_named(write, tmp_path):
    json_file = write({1: []})
    with pytest.raises(InputError, match="max_detections=0"):
        CocoEvaluator(json_file, max_detections=0)
    with pytest.raises(InputError, match=r"nowhere\.json: no such file"):
        CocoEvaluator(tmp_path / "nowhere.json")
    (tmp_path / "file").write_text("")
    evaluator = CocoEvaluator(json_file, output_dir=tmp_path / "file")
    with pytest.raises(InputError, match=r"coco_instances_results\.json: cannot be written"):
        evaluator.evaluate()


def test_the_library_is_silent(crowded, capfd):
    json_file, found = crowded
    evaluated(CocoEvaluator(json_file), found)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def _evaluate_share(rank, folder):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = torch.load(folder / "found.pt", weights_only=False)
    evaluator = CocoEvaluator(folder / "instances.json", output_dir=folder / f"out{rank}")
    mine = {image: of_image for image, of_image in found.items() if image == 102 or image % 2 == rank}
    (folder / f"scores{rank}.json").write_text(json.dumps(evaluated(evaluator, mine)))
    distributed.destroy_process_group()


def test_two_processes_score_as_one(crowded, tmp_path):
    """Image 102 is with both; a detector's results must still count once."""
    json_file, found = crowded
    torch.save(found, tmp_path / "found.pt")
    multiprocessing.spawn(_evaluate_share, (tmp_path,), nprocs=2)
    alone = evaluated(CocoEvaluator(json_file), found)
    for rank in (0, 1):
        assert json.loads((tmp_path / f"scores{rank}.json").read_text()) == alone
    assert (tmp_path / "out0").is_dir() and not (tmp_path / "out1").exists()


@pytest.mark.parametrize(
    "classes", [["cow", "cat", "dog"], ["dog", "cow", "cat", "bird"], ["bird", "cat", "dog", "cow"]]
)
def test_perfect_detections_by_the_classes_of_training_have_100_percent(write, tmp_path, classes):
    """The file's own order is cat, dog, cow; it does not list bird, whose detections count nowhere."""
    json_file = write({1: [(10, 20, 50, 60, 9, {}), (100, 20, 50, 60, 4, {}), (200, 20, 50, 60, 30, {})]})
    boxes = {"dog": [10, 20, 60, 80], "cat": [100, 20, 150, 80], "cow": [200, 20, 250, 80], "bird": [9, 9, 99, 99]}
    evaluator = CocoEvaluator(json_file, classes=classes, output_dir=tmp_path)
    scores = evaluated(evaluator, {1: detections(*((boxes[name], 0.9, classes.index(name)) for name in classes))})
    assert [scores[name] for name in ("AP", "AP-dog", "AP-cat", "AP-cow")] == [pytest.approx(100)] * 4
    assert "bird" not in classes or math.isnan(scores["AP-bird"])
    written = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert sorted(record["category_id"] for record in written) == [4, 9, 30]


OUT_OF_REACH = {  # objects (x, y, w, h) of one image of 500 x 400, max_detections, what is said
    "nothing": ([(10, 20, 50, 60)], 100, None),
    "no area": ([(10, 20, 50, 60), (10, 20, 0, 60)], 100, "of 2 objects, .*: 1 without area; .* AP 50"),
    "outside": ([(10, 20, 50, 60), (600, 20, 50, 60)], 100, "1 outside their image; .* AP 50"),
    "partly outside": ([(460, 20, 50, 60)], 100, "1 with less than 95% of their box inside the image; .* AP 70"),
    "rounded": ([(451, 20, 50, 60)], 100, None),
    "too many": ([(10 * i, 20, 8, 60) for i in range(5)], 3, "2 more than max_detections=3 per image and .* AP 6"),
    "several": (
        [(10, 20, 0, 60), (600, 20, 50, 60), (10, 20, 5, 5)], 100, "1 without area, 1 outside their image; .* AP 3",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", OUT_OF_REACH)
def test_what_evaluation_cannot_reach_is_said_once_with_its_number(write, caplog, case):
    objects, limit, expected = OUT_OF_REACH[case]
    json_file = write({1: [(*box, 4, {}) for box in objects]})
    evaluator = CocoEvaluator(json_file, max_detections=limit)
    evaluated(evaluator, {1: detections(([10, 20, 60, 80], 0.9, 0))})
    said = [record.getMessage() for record in caplog.records if "cannot reach" in record.getMessage()]
    assert len(said) == (expected is not None)
    assert expected is None or re.search(expected, said[0]), said


@pytest.mark.parametrize(("objects", "number"), [([], 0), ([(10, 20, 50, 60, 4, {"iscrowd": 1})], 1)])
def test_a_set_without_objects_is_told_because_its_ap_is_nan(write, caplog, objects, number):
    CocoEvaluator(write({1: objects}))
    assert f"has no object ({number} crowd): every AP is NaN" in caplog.text


def test_a_crowd_region_need_not_be_reached(write, caplog):
    json_file = write({1: [(10, 20, 50, 60, 4, {}), (450, 20, 200, 60, 4, {"iscrowd": 1})]})
    CocoEvaluator(json_file)
    assert "cannot reach" not in caplog.text
