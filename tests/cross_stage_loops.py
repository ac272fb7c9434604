"""The sentence of cross-stage labels, read aloud as loops: the reference of the tests."""

import torch
from torch import Tensor


def iou(first: list[float], second: list[float]) -> float:
    sides = []
    for axis in (0, 1):
        low = max(first[axis] - first[axis + 2] / 2, second[axis] - second[axis + 2] / 2)
        high = min(first[axis] + first[axis + 2] / 2, second[axis] + second[axis + 2] / 2)
        sides.append(max(high - low, 0.0))
    shared = sides[0] * sides[1]
    union = first[2] * first[3] + second[2] * second[3] - shared
    return shared / union if union > 0 else 0.0


def in_window(i: int, j: int, look_back: int | None, look_ahead: int | None) -> bool:
    return (look_back is None or j >= i - look_back) and (look_ahead is None or j <= i + look_ahead)


def scores_by_loops(
    scene: tuple[Tensor, Tensor, Tensor, Tensor],
    *,
    num_classes: int,
    iou_threshold: float = 0.5,
    look_back: int | None = 1,
    look_ahead: int | None = None,
    filter_own: bool = True,
    plain_last_stages: int = 0,
) -> Tensor:
    """y_i[q, c] = 1 iff a stage j of the window matched q with an object of class c that stage i's box overlaps; the
    score is the largest IoU with such an object, -1 without one."""
    matches, boxes, labels, objects = scene
    stages, batch, queries = matches.shape
    scores = torch.full((stages, batch, queries, num_classes), -1.0, dtype=boxes.dtype)
    for i in range(stages):
        for image in range(batch):
            for query in range(queries):
                for j in range(stages):
                    t = matches[j, image, query].item()
                    if t < 0 or not in_window(i, j, look_back, look_ahead):
                        continue
                    overlap = iou(boxes[i, image, query].tolist(), objects[image, t].tolist())
                    if i >= stages - plain_last_stages:
                        positive = i == j
                    else:
                        positive = overlap >= iou_threshold or (i == j and not filter_own)
                    if positive:
                        scores[i, image, query, labels[image, t]].clamp_(min=overlap)
    return scores
