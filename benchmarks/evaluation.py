"""COCO's box metrics: `CocoEvaluator` against pycocotools, from detections in memory to AP."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.measure import Comparison, Setting, Target, interleaved
from crossstage.evaluation.coco import CocoEvaluator
from crossstage.structures import Detections, ImageBatch

SIDE = 640
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def run(setting: Setting) -> list[Comparison]:
    """One row. Both start from tensors; pycocotools finds its index of the truth ready-made, ours builds its own."""
    images, per_image = (10, 20) if setting.quick else (200, 300)
    with tempfile.TemporaryDirectory() as folder:
        json_file = Path(folder) / "truth.json"
        truth = _truth(images, classes=80)
        json_file.write_text(json.dumps(truth))
        detections = _detections(truth, per_image)
        evaluator = CocoEvaluator(json_file)
        for image_id, found in detections.items():
            evaluator.process(_batch(image_id), [found])
        with contextlib.redirect_stdout(io.StringIO()):
            index = COCO(str(json_file))
            sides = {"pycocotools": lambda: _pycocotools(index, _records(detections)), "ours": lambda: _ours(evaluator)}
            difference = float(np.abs(sides["pycocotools"]() - sides["ours"]()).max())
            times = interleaved(sides, setting.rounds)
    return [
        Comparison(
            benchmark="evaluation",
            case=f"{images} images, {images * per_image} detections, 80 classes",
            baseline="pycocotools",
            theirs=times["pycocotools"],
            ours=times["ours"],
            target=Target(at_least=8),
            difference=difference,
            tolerance=1e-9,
        )
    ]


def _pycocotools(index: COCO, records: list[dict]) -> np.ndarray:
    evaluation = COCOeval(index, index.loadRes(records), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[:6]


def _ours(evaluator: CocoEvaluator) -> np.ndarray:
    metrics = evaluator.evaluate()["bbox"]
    return np.array([metrics[name] for name in METRICS]) / 100


def _truth(images: int, *, classes: int) -> dict[str, list]:
    """A COCO instances file of about 9 objects an image, 1 % of them crowds."""
    random = np.random.default_rng(0)
    annotations = []
    for image_id in range(1, images + 1):
        for _ in range(random.integers(3, 17)):
            width, height = np.exp(random.uniform(np.log(10), np.log(300), 2))
            x, y = random.uniform(0, SIDE - width), random.uniform(0, SIDE - height)
            box = [float(value) for value in (x, y, width, height)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(random.integers(classes)) + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(random.random() < 0.01),
                }
            )
    return {
        "images": [
            {"id": number, "width": SIDE, "height": SIDE, "file_name": f"{number}.jpg"}
            for number in range(1, images + 1)
        ],
        "categories": [{"id": number, "name": f"class {number}"} for number in range(1, classes + 1)],
        "annotations": annotations,
    }


def _detections(truth: dict[str, list], per_image: int) -> dict[int, Detections]:
    """By image: its objects with noise first, then boxes anywhere; a third of the scores is rounded, for ties."""
    random = np.random.default_rng(1)
    by_image: dict[int, list] = {image["id"]: [] for image in truth["images"]}
    for annotation in truth["annotations"]:
        by_image[annotation["image_id"]].append((*annotation["bbox"], annotation["category_id"] - 1))
    found = {}
    for image_id, objects in by_image.items():
        near = np.array(objects * 3, dtype=np.float64)[:per_image]
        far = np.concatenate(
            [random.uniform(0, 300, (per_image - len(near), 4)), np.zeros((per_image - len(near), 1))], 1
        )
        far[:, 4] = random.integers(len(truth["categories"]), size=len(far))
        near[:, :4] *= random.normal(1, 0.1, (len(near), 4))
        rows = np.concatenate([near, far])
        scores = random.uniform(0, 1, per_image) * np.where(np.arange(per_image) < len(near), 1, 0.5)
        scores = np.where(random.random(per_image) < 0.3, scores.round(2), scores)
        boxes = np.concatenate([rows[:, :2], rows[:, :2] + np.abs(rows[:, 2:4])], axis=1)
        order = np.argsort(-scores, kind="stable")
        columns = (boxes.astype(np.float32), scores.astype(np.float32), rows[:, 4].astype(np.int64))
        found[image_id] = Detections(*(torch.from_numpy(column[order]) for column in columns))
    return found


def _records(detections: dict[int, Detections]) -> list[dict]:
    """COCO results."""
    records = []
    for image_id, found in detections.items():
        boxes = found.boxes_xyxy.double()
        boxes[:, 2:] -= boxes[:, :2]
        for box, score, label in zip(boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True):
            records.append({"image_id": image_id, "category_id": label + 1, "bbox": box, "score": score})
    return records


def _batch(image_id: int) -> ImageBatch:
    """A batch of one image that has an id, and no pixels: the evaluator asks for no more."""
    return ImageBatch(
        pixels=torch.zeros(1, 3, 1, 1, dtype=torch.uint8),
        mask=torch.zeros(1, 1, 1, dtype=torch.bool),
        sizes=((1, 1),),
        original_sizes=((SIDE, SIDE),),
        image_ids=(image_id,),
    )
