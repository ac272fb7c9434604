"""COCO's box metrics, by faster-coco-eval; pycocotools, which it must agree with, is the cross-check.

Both libraries get the same cleaned truth. It differs from the file in two points that they would stumble over
silently: annotations are numbered from 1 (an id of 0 counts as "not matched" in pycocotools), and an annotation
without "area" has that of its box.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from faster_coco_eval import COCO as FasterCOCO
from faster_coco_eval import COCOeval_faster

from crossstage.checkpoints.save import write_atomically
from crossstage.data.coco_json import read_coco
from crossstage.errors import InputError, NonFiniteError
from crossstage.processes import Processes
from crossstage.structures import Detections, ImageBatch

logger = logging.getLogger("crossstage.evaluation")

PREDICTIONS_FILE = "coco_instances_results.json"
AREAS = ("all", "small", "medium", "large")  # the order of both libraries
AGREEMENT = 1e-9

Records = list[dict[str, Any]]


class CocoEvaluator:
    """AP of the detections of all images of a COCO instances JSON, over all processes; each image counts once.

    output_dir: where to write the predictions as COCO JSON (coco_instances_results.json), replaced as a whole.
    max_detections: best ones of an image and class that count, 100 in COCO's protocol.  cross_check: also compute with
    pycocotools (ten times slower) and raise RuntimeError if any of the 12 numbers differs by more than 1e-9.
    Raises InputError if the JSON is not what COCO's format says.
    """

    def __init__(
        self,
        json_file: str | Path,
        *,
        output_dir: str | Path | None = None,
        max_detections: int = 100,
        cross_check: bool = False,
    ) -> None:
        if not isinstance(max_detections, int) or max_detections < 1:
            raise InputError(f"max_detections={max_detections!r}: expected a whole number of at least 1")
        if cross_check and importlib.util.find_spec("pycocotools") is None:
            raise InputError("cross_check=True: needs the package pycocotools (pip install pycocotools), or False")
        contents = read_coco(json_file)
        self.json_file = str(json_file)
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.max_detections = max_detections
        self.cross_check = cross_check
        self.class_names = contents.class_names
        self.category_ids = contents.category_ids
        self._image_ids = frozenset(contents.image_ids.tolist())
        self._predictions: dict[int, np.ndarray] = {}
        self._truth: dict[str, Records] | None = None
        self._processes: Processes | None = None

    def reset(self) -> None:
        """Forget all detections."""
        self._predictions = {}

    def process(self, batch: ImageBatch, detections: Sequence[Detections]) -> None:
        """Take in the detections of a batch, one for each of `batch.image_ids`, on any device (one transfer).

        Raises InputError for an image or a class that the JSON does not have, NonFiniteError for a box or score that
        is not a finite number. An image that comes again is ignored.
        """
        rows = [_rows(of_image) for of_image in detections]
        counts = np.cumsum([len(of_image) for of_image in rows])[:-1]
        on_host = torch.cat(rows).cpu().numpy() if rows else np.zeros((0, 6), np.float32)
        for image_id, of_image in zip(batch.image_ids, np.split(on_host, counts), strict=True):
            self._check(image_id, of_image)
            self._predictions.setdefault(image_id, of_image)

    def evaluate(self) -> dict[str, dict[str, float]]:
        """{"bbox": {"AP", "AP50", "AP75", "APs", "APm", "APl", "AP-<class>" ...}} in percent, on all processes.

        NaN where the dataset has no object of that size or class. Images of the JSON that were never processed count
        as images without detections; a warning tells how many.
        """
        if self._processes is None:
            self._processes = Processes()
        shards = self._processes.gather(self._predictions)
        return self._processes.on_first(partial(self._score, shards))

    def _check(self, image_id: int, rows: np.ndarray) -> None:
        if image_id not in self._image_ids:
            raise InputError(
                f"{self.json_file}: has no image {image_id}, but there are detections for it; expected the evaluator's "
                "json_file to be that of dataloader.test.dataset"
            )
        if not np.isfinite(rows).all():
            raise NonFiniteError(f"a detection of image {image_id} has a box or a score that is not finite")
        labels = rows[:, 5]
        if len(labels) and not (labels.min() >= 0 and labels.max() < len(self.class_names)):
            raise InputError(
                f"{self.json_file}: has {len(self.class_names)} classes, but class {int(labels.max())} was detected; "
                f"expected model.num_classes={len(self.class_names)}"
            )

    def _score(self, shards: Sequence[dict[int, np.ndarray]]) -> dict[str, dict[str, float]]:
        predictions: dict[int, np.ndarray] = {}
        for shard in shards:
            predictions = {**shard, **predictions}
        records = self._records(predictions)
        self._tell(len(predictions), len(records))
        if self.output_dir is not None:
            _write(self.output_dir / PREDICTIONS_FILE, records)
        if self._truth is None:
            self._truth = read_truth(self.json_file)
        curves = fast_curves(self._truth, records, max_detections=self.max_detections)
        if self.cross_check:
            _compare(curves, reference_curves(self._truth, records, max_detections=self.max_detections))
        return {"bbox": self._metrics(curves)}

    def _records(self, predictions: dict[int, np.ndarray]) -> Records:
        """COCO's results: image_id, category_id, bbox (x, y, width, height), score; by image id."""
        return [
            {"image_id": image_id, "category_id": self.category_ids[int(label)], "bbox": box, "score": score}
            for image_id in sorted(predictions)
            for *box, score, label in _with_sizes(predictions[image_id]).tolist()
        ]

    def _tell(self, images: int, detections: int) -> None:
        total = len(self._image_ids)
        if images < total:
            logger.warning(
                "%s: %d of %d images were evaluated; the others count as without detections",
                self.json_file, images, total,
            )  # fmt: skip
        if not detections:
            logger.warning("%s: the model detected nothing in %d images; AP is 0", self.json_file, images)

    def _metrics(self, curves: Curves) -> dict[str, float]:
        numbers = curves.twelve_numbers()[:6]
        metrics = dict(zip(("AP", "AP50", "AP75", "APs", "APm", "APl"), numbers, strict=True))
        for index, (name, category_id) in enumerate(zip(self.class_names, self.category_ids, strict=True)):
            unique = self.class_names.count(name) == 1
            key = f"AP-{name}" if unique else f"AP-{name} ({category_id})"
            metrics[key] = _mean(curves.precision[:, :, index, 0, -1])
        return {name: 100 * value for name, value in metrics.items()}


@dataclass(frozen=True)
class Curves:
    """What COCO's numbers are means of; -1 where there is no object.

    precision: [10 IoU thresholds, 101 recalls, K, 4 areas, 3 limits].  recall: [10, K, 4, 3].  The limits are 1, 10 and
    max_detections detections an image and class.
    """

    precision: np.ndarray
    recall: np.ndarray

    def twelve_numbers(self) -> list[float]:
        """COCO's summary, in its order: AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl, in [0, 1].

        NaN where COCO says -1: no such object.
        """
        precision, recall = self.precision[..., -1], self.recall
        averages = [precision[..., 0], precision[0, ..., 0], precision[5, ..., 0]]
        averages += [precision[..., area] for area in range(1, len(AREAS))]
        averages += [recall[..., 0, limit] for limit in range(3)]
        averages += [recall[..., area, -1] for area in range(1, len(AREAS))]
        return [_mean(values) for values in averages]


def fast_curves(truth: dict[str, Records], records: Records, *, max_detections: int = 100) -> Curves:
    """Evaluate COCO results against `read_truth` by faster-coco-eval."""
    ours, theirs = FasterCOCO(), FasterCOCO()
    evaluation = _prepared(COCOeval_faster, ours, theirs, truth=truth, records=records, limit=max_detections)
    return Curves(precision=evaluation.eval["precision"], recall=evaluation.eval["recall"])


def reference_curves(truth: dict[str, Records], records: Records, *, max_detections: int = 100) -> Curves:
    """The same by pycocotools, slowly. It is imported here because nothing else needs it."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        evaluation = _prepared(COCOeval, COCO(), COCO(), truth=truth, records=records, limit=max_detections)
    return Curves(precision=evaluation.eval["precision"], recall=evaluation.eval["recall"])


def _prepared(kind: Any, truth_index: Any, result_index: Any, *, truth: Any, records: Records, limit: int) -> Any:
    """Build, run and return an evaluation of either library; both have the same interface."""
    results = [
        {**record, "id": number, "area": record["bbox"][2] * record["bbox"][3], "iscrowd": 0}
        for number, record in enumerate(records, start=1)
    ]
    # `loadRes` of both libraries would add a polygon to each detection, and fails without any.
    for index, boxes in ((truth_index, truth["annotations"]), (result_index, results)):
        index.dataset = {**truth, "annotations": boxes}
        index.createIndex()
    evaluation = kind(truth_index, result_index, "bbox")
    evaluation.params.maxDets = [min(1, limit), min(10, limit), limit]
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


def read_truth(json_file: str | Path) -> dict[str, Records]:
    """The images, categories and annotations of a COCO JSON as both libraries need them (see above).

    The file must have passed `crossstage.data.coco_json.read_coco`.
    """
    with open(json_file, "rb") as file:
        content = json.load(file)
    annotations = [
        {
            "id": number,
            "image_id": annotation["image_id"],
            "category_id": annotation["category_id"],
            "bbox": annotation["bbox"],
            "area": annotation.get("area", annotation["bbox"][2] * annotation["bbox"][3]),
            "iscrowd": int(bool(annotation.get("iscrowd", 0))),
        }
        for number, annotation in enumerate(content["annotations"], start=1)
    ]
    return {"images": content["images"], "categories": content["categories"], "annotations": annotations}


def _compare(fast: Curves, reference: Curves) -> None:
    ours, theirs = fast.twelve_numbers(), reference.twelve_numbers()
    if not np.allclose(ours, theirs, rtol=0, atol=AGREEMENT, equal_nan=True):
        raise RuntimeError(f"faster-coco-eval and pycocotools disagree: {ours} and {theirs}")
    logger.info("pycocotools agrees on all 12 numbers")


def _rows(detections: Detections) -> torch.Tensor:
    """float32 [D, 6]: corners, score, label."""
    columns = [detections.boxes_xyxy, detections.scores[:, None], detections.labels[:, None]]
    return torch.cat([column.detach().float() for column in columns], dim=1)


def _with_sizes(rows: np.ndarray) -> np.ndarray:
    """Corners to (x, y, width, height), in float64."""
    rows = rows.astype(np.float64)
    rows[:, 2:4] -= rows[:, :2]
    return rows


def _mean(values: np.ndarray) -> float:
    """Mean of what is there (not -1); NaN if nothing is."""
    there = values[values > -1]
    return float(there.mean()) if there.size else float("nan")


def _write(path: Path, records: Records) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(records))
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another output folder") from error
