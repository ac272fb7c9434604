"""What an evaluation can tell beyond its AP: per class, by kind of mistake, and the worst pictures."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crossstage.evaluation.coco import CocoEvaluator, Curves, Records, evaluated_curves
from crossstage.evaluation.mistakes import KINDS, Judgement, Scene, above, confusion, judge, repaired
from crossstage.evaluation.report_page import write_page
from crossstage.files import strict_json, write_text

THRESHOLD = 0.3  # lowest score of the detections that a person would look at, as in `crossstage predict`
WORST = 12  # pictures


@dataclass(frozen=True)
class Report:
    """The numbers of a report.

    Attributes:
        classes: per class: name, AP, AP50, number of objects; by class index.
        mistakes: per kind: its number, its number if only detections with a score of at least `THRESHOLD` existed, and
            its cost, the AP50 that would be gained without it.
        ap50: AP50 in percent.
        precision: [101, K], the precision at IoU 0.5 for each recall 0, 0.01, ..., 1; -1 where a class has no object.
        confusion: int [K + 1, K + 1], from `mistakes.confusion`, of the detections above the threshold.
        worst: the images with the heaviest mistakes, the worst first: scene, judgement, cost; of the same detections.
    """

    classes: list[dict[str, Any]]
    mistakes: dict[str, dict[str, float]]
    ap50: float
    precision: np.ndarray
    confusion: np.ndarray
    worst: list[tuple[Scene, Judgement, float]]

    def as_json(self) -> dict[str, Any]:
        """Everything but the boxes, for report.json."""
        return {
            "ap50": self.ap50,
            "threshold": THRESHOLD,
            "classes": self.classes,
            "mistakes": self.mistakes,
            "precision_at_iou_50": {
                entry["name"]: self.precision[:, index].tolist()
                for index, entry in enumerate(self.classes)
                if entry["objects"]
            },
            "confusion": {"rows": "objects", "columns": "detections", "counts": self.confusion.tolist()},
            "worst": [{"image_id": scene.image_id, "cost": cost} for scene, _, cost in self.worst],
        }


def write_report(evaluator: CocoEvaluator, folder: Path, *, image_root: Path, about: dict[str, Any]) -> Path:
    """Write index.html with its pictures and report.json.

    Args:
        evaluator: after its evaluation.
        folder: the folder to create.
        image_root: the folder of the images.
        about: where the numbers come from.

    Returns:
        The page.
    """
    made = report(
        evaluator.truth,
        evaluator.results,
        class_names=evaluator.class_names,
        category_ids=evaluator.category_ids,
        max_detections=evaluator.max_detections,
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "report.json", strict_json({**made.as_json(), "about": about}, indent=1) + "\n")
    files = {image["id"]: image_root / image["file_name"] for image in evaluator.truth["images"]}
    return write_page(made, folder, files=files, about=about, threshold=THRESHOLD)


def report(
    truth: dict[str, Records],
    results: Records,
    *,
    class_names: Sequence[str],
    category_ids: Sequence[int | None],
    max_detections: int = 100,
) -> Report:
    """Compute a report.

    Args:
        truth: from `truth_records`.
        results: detections in COCO's format.
        class_names: by class index.
        category_ids: by class index; None for a class that the data set lacks.
        max_detections: number of detections per image and class that count.

    Returns:
        The report.
    """
    index_of = {category: index for index, category in enumerate(category_ids) if category is not None}
    scenes = scenes_of(truth, results, index_of, max_detections=max_detections)
    judgements = [judge(scene) for scene in scenes]
    curves = evaluated_curves(truth, results, max_detections=max_detections)
    ap50, precision = _ap50(curves), curves.by_class(category_ids)
    visible = [above(scene, THRESHOLD) for scene in scenes]
    visible_judgements = [judge(scene) for scene in visible]
    counts, shown = _counts(judgements), _counts(visible_judgements)
    mistakes: dict[str, dict[str, float]] = {}
    for kind in KINDS:
        without = [repaired(*pair, kind) for pair in zip(scenes, judgements, strict=True)]
        gained = _ap50(_curves_of(truth, without, category_ids, max_detections)) - ap50
        mistakes[kind] = {"count": counts[kind], "count_above_threshold": shown[kind], "cost_ap50": gained}
    return Report(
        classes=_classes(precision, scenes, class_names),
        mistakes=mistakes,
        ap50=ap50,
        precision=precision[0],
        confusion=confusion(visible, len(class_names)),
        worst=_worst(visible, visible_judgements),
    )


def scenes_of(
    truth: dict[str, Records], results: Records, index_of: dict[int, int], *, max_detections: int
) -> list[Scene]:
    """The images with their objects and their best `max_detections` detections per class."""
    objects: dict[int, Records] = defaultdict(list)
    found: dict[int, Records] = defaultdict(list)
    for record in truth["annotations"]:
        objects[record["image_id"]].append(record)
    for record in sorted(results, key=_score, reverse=True):
        found[record["image_id"]].append(record)
    scenes = []
    for image in truth["images"]:
        seen: Counter[int] = Counter()
        best = []
        for record in found[image["id"]]:
            seen[record["category_id"]] += 1
            if seen[record["category_id"]] <= max_detections:
                best.append(record)
        own = objects[image["id"]]
        scenes.append(
            Scene(
                image_id=image["id"],
                boxes_xyxy=_corners(best),
                scores=np.array([record["score"] for record in best], float),
                labels=np.array([index_of[record["category_id"]] for record in best], int),
                object_boxes_xyxy=_corners(own),
                object_labels=np.array([index_of[record["category_id"]] for record in own], int),
                crowd=np.array([bool(record["iscrowd"]) for record in own], bool),
            )
        )
    return scenes


def _curves_of(
    truth: dict[str, Records], scenes: Sequence[Scene], category_ids: Sequence[int | None], max_detections: int
) -> Curves:
    """Evaluate changed scenes at IoU 0.5."""
    results, annotations = [], []
    for scene in scenes:
        rows = zip(scene.boxes_xyxy, scene.scores.tolist(), scene.labels, strict=True)
        results += [{**_record(scene, box, category_ids[label]), "score": score} for box, score, label in rows]
        objects = zip(scene.object_boxes_xyxy, scene.object_labels, scene.crowd, strict=True)
        annotations += [
            {**_record(scene, box, category_ids[label]), "iscrowd": int(crowd)} for box, label, crowd in objects
        ]
    numbered = [
        {**record, "id": number, "area": record["bbox"][2] * record["bbox"][3]}
        for number, record in enumerate(annotations, start=1)
    ]
    changed = {**truth, "annotations": numbered}
    return evaluated_curves(changed, results, max_detections=max_detections, only_ap50=True)


def _record(scene: Scene, box_xyxy: np.ndarray, category_id: int) -> dict[str, Any]:
    x0, y0, x1, y1 = box_xyxy.tolist()
    return {"image_id": scene.image_id, "category_id": category_id, "bbox": [x0, y0, x1 - x0, y1 - y0]}


def _counts(judgements: Sequence[Judgement]) -> Counter[str]:
    """How many mistakes of each kind there are."""
    counts = Counter(kind for judgement in judgements for kind in judgement.kinds)
    counts["missed"] = sum(len(judgement.missed) for judgement in judgements)
    return counts


def _ap50(curves: Curves) -> float:
    values = curves.precision[0, ..., 0, -1]
    there = values[values > -1]
    return 100 * float(there.mean()) if there.size else float("nan")


def _classes(precision: np.ndarray, scenes: Sequence[Scene], class_names: Sequence[str]) -> list[dict[str, Any]]:
    """A row per class. precision: [10, 101, C], -1 without objects."""
    rows = []
    for index, name in enumerate(class_names):
        own = precision[..., index]
        has_objects = bool((own > -1).any())
        ap, ap50 = (100 * float(part.mean()) if has_objects else None for part in (own, own[0]))
        count = sum(int(((scene.object_labels == index) & ~scene.crowd).sum()) for scene in scenes)
        rows.append({"name": name, "AP": ap, "AP50": ap50, "objects": count})
    return rows


def _worst(scenes: Sequence[Scene], judgements: Sequence[Judgement]) -> list[tuple[Scene, Judgement, float]]:
    """The images whose mistakes weigh most: the scores of wrong detections, and 1 per missed object."""
    rated = []
    for scene, judgement in zip(scenes, judgements, strict=True):
        wrong = [score for kind, score in zip(judgement.kinds, scene.scores.tolist(), strict=True) if kind in KINDS]
        cost = sum(wrong) + len(judgement.missed)
        if cost > 0:
            rated.append((scene, judgement, cost))
    return sorted(rated, key=_cost, reverse=True)[:WORST]


def _cost(rated: tuple[Scene, Judgement, float]) -> float:
    return rated[2]


def _score(record: dict[str, Any]) -> float:
    return record["score"]


def _corners(records: Records) -> np.ndarray:
    boxes = np.array([record["bbox"] for record in records], float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes
