"""COCO's box metrics, by faster-coco-eval. A test compares its numbers with those of pycocotools.

faster-coco-eval gets corrected annotations, because it would silently give wrong numbers in three cases: annotations
are numbered from 1 (an id of 0 would count as "not matched"), images and categories too (large ids would be rounded),
and an annotation without "area" gets the area of its box.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster

from crossstage.data.classes import with_classes
from crossstage.data.coco_json import read_coco
from crossstage.errors import InputError, NonFiniteError
from crossstage.evaluation.reachable import reach
from crossstage.evaluation.truth import Records, numbered, truth_records
from crossstage.files import strict_json, write_text
from crossstage.processes import Processes
from crossstage.structures import Detections, ImageBatch

logger = logging.getLogger("crossstage.evaluation")

PREDICTIONS_FILE = "coco_instances_results.json"
AREAS = ("all", "small", "medium", "large")  # in the order of faster-coco-eval


class CocoEvaluator:
    """Computes the AP of the detections in all images of a COCO instances JSON, over all processes.

    Args:
        json_file: the annotations.
        output_dir: folder for the predictions as COCO JSON (coco_instances_results.json); None writes none.
        max_detections: number of detections per image and class that count; 100 in COCO's protocol.
        classes: the class names by class index, to which those of the file are matched. None takes the file's classes,
            in the order of ascending category ids.

    The log says how many objects no detector can find, and which AP perfect detections would have.

    Raises:
        InputError: if the JSON does not follow COCO's format, or its classes do not fit.
    """

    def __init__(
        self,
        json_file: str | Path,
        *,
        output_dir: str | Path | None = None,
        max_detections: int = 100,
        classes: Sequence[str] | None = None,
    ) -> None:
        if not isinstance(max_detections, int) or max_detections < 1:
            raise InputError(f"max_detections={max_detections!r}: expected a whole number of at least 1")
        contents = with_classes(read_coco(json_file), classes)
        self.json_file = str(json_file)
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.max_detections = max_detections
        self.class_names = contents.class_names
        self.category_ids = contents.category_ids
        self._image_ids = frozenset(contents.image_ids.tolist())
        self._predictions: dict[int, np.ndarray] = {}
        self.results: Records = []  # of the last evaluation, in the first process
        self._contents = contents
        self._truth: dict[str, Records] | None = None
        self._processes: Processes | None = None
        self._tell_what_is_out_of_reach()

    @property
    def truth(self) -> dict[str, Records]:
        """The annotations as records, see `truth_records`."""
        if self._truth is None:
            self._truth = truth_records(self._contents)
        return self._truth

    def reset(self) -> None:
        """Remove all detections."""
        self._predictions = {}

    def process(self, batch: ImageBatch, detections: Sequence[Detections]) -> None:
        """Add the detections of a batch. An image that was added before is ignored.

        Args:
            batch: the images.
            detections: one per image, on any device; they are copied to the host in one transfer.

        Raises:
            InputError: for an image or a class that the JSON does not have.
            NonFiniteError: for a box or a score that is not finite.
        """
        rows = [_rows(of_image) for of_image in detections]
        counts = np.cumsum([len(of_image) for of_image in rows])[:-1]
        on_host = torch.cat(rows).cpu().numpy() if rows else np.zeros((0, 6), np.float32)
        for image_id, of_image in zip(batch.image_ids, np.split(on_host, counts), strict=True):
            self._check(image_id, of_image)
            self._predictions.setdefault(image_id, of_image)

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Compute {"bbox": {"AP", "AP50", "AP75", "APs", "APm", "APl", "AP-<class>" ...}} in percent.

        All processes get the result. A score is NaN if the dataset has no object of this size or class. Images of
        the JSON that were not processed count as images without detections; a warning gives their number.
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
        self.results = records
        curves = evaluated_curves(self.truth, records, max_detections=self.max_detections)
        return {"bbox": self._metrics(curves)}

    def _records(self, predictions: dict[int, np.ndarray]) -> Records:
        """COCO's results: image_id, category_id, bbox (x, y, width, height), score; by image id.

        A class that the JSON does not list has no category id; its detections are left out, because COCO's metrics
        ignore them.
        """
        return [
            {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}
            for image_id in sorted(predictions)
            for *box, score, label in _with_sizes(predictions[image_id]).tolist()
            if (category_id := self.category_ids[int(label)]) is not None
        ]

    def _tell_what_is_out_of_reach(self) -> None:
        """Log the number of objects that no detector can find, and the AP of perfect detections."""
        contents = self._contents
        if not (~contents.crowd).any():
            logger.warning("%s: has no object (%d crowd): every AP is NaN", self.json_file, contents.crowd.sum())
        possible = reach(contents, max_detections=self.max_detections)
        if not possible.problems:
            return
        ids = contents.image_ids[contents.image_rows].tolist()
        records = [
            {"image_id": ids[row], "category_id": self.category_ids[label], "bbox": box, "score": 1.0}
            for row, label, box in zip(
                np.nonzero(possible.found)[0].tolist(),
                contents.labels[possible.found].tolist(),
                possible.boxes_xywh[possible.found].tolist(),
                strict=True,
            )
        ]
        best = 100 * evaluated_curves(self.truth, records, max_detections=self.max_detections).twelve_numbers()[0]
        logger.warning(
            "%s: of %d objects, evaluation cannot reach all: %s; perfect detections have AP %.2f",
            self.json_file, (~contents.crowd).sum(), ", ".join(possible.problems), best,
        )  # fmt: skip

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
        precision = curves.by_class(self.category_ids)
        for index, (name, category_id) in enumerate(zip(self.class_names, self.category_ids, strict=True)):
            unique = self.class_names.count(name) == 1
            key = f"AP-{name}" if unique else f"AP-{name} ({category_id})"
            metrics[key] = _mean(precision[..., index])
        return {name: 100 * value for name, value in metrics.items()}


@dataclass(frozen=True)
class Curves:
    """The values from which COCO's numbers are averaged; -1 if there is no object.

    Attributes:
        precision: [10 IoU thresholds, 101 recalls, K classes, 4 areas, 3 limits]. The limits are 1, 10 and
            max_detections detections per image and class.
        recall: [10 IoU thresholds, K classes, 4 areas, 3 limits].
    """

    precision: np.ndarray
    recall: np.ndarray

    def by_class(self, category_ids: Sequence[int | None]) -> np.ndarray:
        """Precision over all areas with most detections, by class index; -1 for a class that the data set lacks.

        Args:
            category_ids: of C classes, by class index. The columns of `precision` follow ascending ids instead.

        Returns:
            [10, 101, C].
        """
        listed = sorted(category_id for category_id in category_ids if category_id is not None)
        lacking = np.full(self.precision.shape[:2], -1.0)
        columns = [
            lacking if category_id is None else self.precision[:, :, listed.index(category_id), 0, -1]
            for category_id in category_ids
        ]
        return np.stack(columns, axis=-1)

    def twelve_numbers(self) -> list[float]:
        """COCO's summary, in its order: AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl, in [0, 1].

        A number is NaN, where COCO has -1, if there is no such object.
        """
        precision, recall = self.precision[..., -1], self.recall
        averages = [precision[..., 0], precision[0, ..., 0], precision[5, ..., 0]]
        averages += [precision[..., area] for area in range(1, len(AREAS))]
        averages += [recall[..., 0, limit] for limit in range(3)]
        averages += [recall[..., area, -1] for area in range(1, len(AREAS))]
        return [_mean(values) for values in averages]


def evaluated_curves(
    truth: dict[str, Records], records: Records, *, max_detections: int = 100, only_ap50: bool = False
) -> Curves:
    """Evaluate COCO results.

    Args:
        truth: from `truth_records`.
        records: the results, in COCO's format.
        max_detections: number of detections per image and class that count.
        only_ap50: whether to use the IoU threshold 0.5 and objects of all areas alone, which is faster.

    Returns:
        The curves.
    """
    truth_index, result_index = COCO(), COCO()
    results = [
        {**record, "id": number, "area": record["bbox"][2] * record["bbox"][3], "iscrowd": 0}
        for number, record in enumerate(records, start=1)
    ]
    # `loadRes` would add a polygon to each detection, and fails without any.
    for index, boxes in ((truth_index, truth["annotations"]), (result_index, results)):
        index.dataset = numbered(truth, boxes)
        index.createIndex()
    evaluation = COCOeval_faster(truth_index, result_index, "bbox")
    evaluation.params.maxDets = [min(1, max_detections), min(10, max_detections), max_detections]
    if only_ap50:
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.params.areaRng, evaluation.params.areaRngLbl = evaluation.params.areaRng[:1], ["all"]
    evaluation.evaluate()
    evaluation.accumulate()
    return Curves(precision=evaluation.eval["precision"], recall=evaluation.eval["recall"])


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
    """Mean of the values that are not -1; NaN if there are none."""
    there = values[values > -1]
    return float(there.mean()) if there.size else float("nan")


def _write(path: Path, records: Records) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, strict_json(records))
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another output folder") from error
