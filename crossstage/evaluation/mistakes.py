"""The mistakes of a detector, in the sense of TIDE (Bolya et al., ECCV 2020): each wrong detection has one kind.

With IoU thresholds 0.5 and 0.1 (paper, section 2.2), a detection that is not a hit at IoU 0.5 is

- `localisation`: the best object of its class overlaps between 0.1 and 0.5;
- `classification`: an object of another class overlaps at least 0.5;
- `duplicate`: an object of its class overlaps at least 0.5, but a detection with a higher score has it already;
- `background`: no object overlaps more than 0.1;
- `both`: none of these: an object of another class overlaps between 0.1 and 0.5;

tested in this order; and an object that is neither hit nor the object of a localisation or classification mistake is
`missed`. Crowd regions are no objects; a detection inside one is ignored, as in COCO's protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

HIT, BACKGROUND = 0.5, 0.1  # IoU thresholds
KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")


@dataclass(frozen=True)
class Scene:
    """The D detections and G objects of an image. Boxes are absolute xyxy in float64.

    Attributes:
        image_id: the image.
        boxes_xyxy: [D, 4], by descending score.
        scores: [D].
        labels: int [D], class indices.
        object_boxes_xyxy: [G, 4].
        object_labels: int [G].
        crowd: bool [G], whether an object is a crowd region.
    """

    image_id: int
    boxes_xyxy: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    object_boxes_xyxy: np.ndarray
    object_labels: np.ndarray
    crowd: np.ndarray


@dataclass(frozen=True)
class Judgement:
    """What became of the detections and objects of an image.

    Attributes:
        kinds: of each detection: "hit", "ignored", or one of `KINDS`.
        objects: int [D], the object that a detection hits or, for a localisation or classification mistake, should
            have hit; -1 otherwise.
        missed: the objects that are missed.
    """

    kinds: tuple[str, ...]
    objects: np.ndarray
    missed: tuple[int, ...]


def overlaps(boxes: np.ndarray, others: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU of boxes [D, 4] with others [G, 4], [D, G]; for a crowd region the covered share of the box."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(-1)
    area, other_area = ((b[:, 2:] - b[:, :2]).prod(-1) for b in (boxes, others))
    union = np.where(crowd[None], area[:, None], area[:, None] + other_area[None] - common)
    return common / np.maximum(union, 1e-12)


def hits(scene: Scene, iou: np.ndarray, *, any_class: bool = False) -> np.ndarray:
    """The object that each detection hits, int [D]; -1: none, -2: it lies in a crowd region.

    As in COCO's protocol, detections choose in the order of their scores, each the free object that it overlaps most.

    Args:
        scene: the image.
        iou: from `overlaps`.
        any_class: whether a detection may hit an object of another class.
    """
    found = np.full(len(scene.scores), -1)
    free = ~scene.crowd
    for index, label in enumerate(scene.labels):
        fits = np.full(len(free), True) if any_class else scene.object_labels == label
        candidates = np.where(fits & free, iou[index], -1)
        if len(candidates) and candidates.max() >= HIT:
            found[index] = candidates.argmax()
            free[found[index]] = False
        elif len(candidates) and (iou[index][fits & scene.crowd] >= HIT).any():
            found[index] = -2
    return found


def judge(scene: Scene) -> Judgement:
    """Give each detection its kind, and find the missed objects."""
    iou = overlaps(scene.boxes_xyxy, scene.object_boxes_xyxy, scene.crowd)
    objects = hits(scene, iou)
    kinds = []
    for index, label in enumerate(scene.labels):
        if objects[index] != -1:
            kinds.append("hit" if objects[index] >= 0 else "ignored")
            continue
        kind, objects[index] = _kind_of_mistake(iou[index], scene.object_labels == label, ~scene.crowd)
        kinds.append(kind)
    covered = set(objects.tolist())
    missed = tuple(index for index, crowd in enumerate(scene.crowd) if not crowd and index not in covered)
    return Judgement(tuple(kinds), np.maximum(objects, -1), missed)


def _kind_of_mistake(iou: np.ndarray, same_class: np.ndarray, real: np.ndarray) -> tuple[str, int]:
    """The kind of a detection without a hit, and the object that it was meant for, from its IoU [G] with objects."""
    same = np.where(same_class & real, iou, 0.0)
    other = np.where(~same_class & real, iou, 0.0)
    best_same, best_other = same.max(initial=0.0), other.max(initial=0.0)
    if BACKGROUND < best_same < HIT:
        return "localisation", int(same.argmax())
    if best_other >= HIT:
        return "classification", int(other.argmax())
    if best_same >= HIT:
        return "duplicate", -1
    return ("background" if best_other <= BACKGROUND else "both"), -1


def repaired(scene: Scene, judgement: Judgement, kind: str) -> Scene:
    """The scene as it would be without one kind of mistake; the AP gained by this is the mistakes' cost.

    Classes and boxes are set to those of the objects. If several detections then hit an object, the best one stays.
    Other wrong detections are removed, and so are missed objects.
    """
    if kind == "missed":
        keep = np.array([index not in judgement.missed for index in range(len(scene.crowd))], bool)
        return _of(scene, np.arange(len(scene.scores)), scene.labels, scene.boxes_xyxy, keep)
    labels, boxes = scene.labels.copy(), scene.boxes_xyxy.copy()
    stays = []
    taken: set[int] = set()
    for index, (own, target) in enumerate(zip(judgement.kinds, judgement.objects.tolist(), strict=True)):
        if own == kind and target >= 0:
            labels[index], boxes[index] = scene.object_labels[target], scene.object_boxes_xyxy[target]
        if own in (kind, "hit"):
            if target < 0 or target in taken:
                continue
            taken.add(target)
        stays.append(index)
    return _of(scene, np.array(stays, int), labels, boxes, np.full(len(scene.crowd), True))


def above(scene: Scene, threshold: float) -> Scene:
    """The scene with the detections alone whose score is at least `threshold`."""
    rows = np.nonzero(scene.scores >= threshold)[0]
    return _of(scene, rows, scene.labels, scene.boxes_xyxy, np.full(len(scene.crowd), True))


def _of(scene: Scene, rows: np.ndarray, labels: np.ndarray, boxes: np.ndarray, objects: np.ndarray) -> Scene:
    return Scene(
        scene.image_id,
        boxes[rows],
        scene.scores[rows],
        labels[rows],
        scene.object_boxes_xyxy[objects],
        scene.object_labels[objects],
        scene.crowd[objects],
    )


def confusion(scenes: Sequence[Scene], num_classes: int) -> np.ndarray:
    """Which class is detected where which class is, int [K + 1, K + 1].

    Args:
        scenes: the images, with the detections that count.
        num_classes: K.

    Returns:
        Rows are the objects' classes, columns the detected ones. The last row counts detections without an object, the
        last column objects without a detection.
    """
    counts = np.zeros((num_classes + 1, num_classes + 1), int)
    for scene in scenes:
        found = hits(scene, overlaps(scene.boxes_xyxy, scene.object_boxes_xyxy, scene.crowd), any_class=True)
        for label, target in zip(scene.labels, found, strict=True):
            if target != -2:
                counts[num_classes if target < 0 else scene.object_labels[target], label] += 1
        for index in np.nonzero(~scene.crowd)[0]:
            counts[scene.object_labels[index], num_classes] += index not in found
    return counts
