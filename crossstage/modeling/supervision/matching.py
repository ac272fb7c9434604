"""One-to-one matching of queries and objects: one cost for all stages and images, one transfer, one solver.

The cost of a pair is that of DETR (section 3.1) with the focal class cost of Deformable-DETR. Costs are built as
[S, B, T, N]: contiguous rows of queries are what scipy's solver reads fastest.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from crossstage.errors import NonFiniteError
from crossstage.layers.boxes import BoxDistance
from crossstage.modeling.stages import of_stage
from crossstage.structures import PaddedTargets, StageOutputs


class FocalClassCost:
    """Class cost in the form of the focal loss: what a positive would cost minus what it costs as a negative."""

    def __init__(self, *, alpha: float = 0.25, gamma: float = 2.0, eps: float = 1e-8) -> None:
        self.alpha, self.gamma, self.eps = alpha, gamma, eps

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """logits: [S, B, N, K], labels: int64 [B, T] -> [S, B, T, N]. Only the objects' classes are computed."""
        probability = _columns(logits, labels).sigmoid_()
        improbability = 1 - probability
        positive = (probability + self.eps).log_().mul_(improbability**self.gamma)
        negative = (improbability + self.eps).log_().mul_(probability**self.gamma)
        return negative.mul_(1 - self.alpha).sub_(positive, alpha=self.alpha)


class SoftmaxClassCost:
    """Minus the probability of the object's class (DETR): logits have a last column for "no object"."""

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """logits: [S, B, N, K + 1], labels: int64 [B, T] -> [S, B, T, N]."""
        return -_columns(logits.softmax(dim=-1), labels)


def _columns(values: Tensor, labels: Tensor) -> Tensor:
    """Each object's class column, [S, B, N, K], int64 [B, T] -> [S, B, T, N]."""
    stages, _, queries, _ = values.shape
    index = labels[None, :, None].expand(stages, -1, queries, -1)
    return values.gather(-1, index).transpose(-1, -2).contiguous()


class HungarianMatcher:
    """Assigns each object to one query, stage by stage and image by image, at the least total cost.

    class_cost: FocalClassCost or SoftmaxClassCost.  box_distance: how boxes are compared.  cost_*: weights.
    """

    def __init__(
        self,
        *,
        class_cost=None,
        box_distance: BoxDistance | None = None,
        cost_class: float = 2.0,
        cost_bbox: float = 5.0,
        cost_giou: float = 2.0,
    ) -> None:
        self.class_cost = FocalClassCost() if class_cost is None else class_cost
        self.box_distance = BoxDistance() if box_distance is None else box_distance
        self.cost_class, self.cost_bbox, self.cost_giou = cost_class, cost_bbox, cost_giou

    @torch.no_grad()
    def cost(self, outputs: StageOutputs, targets: PaddedTargets) -> Tensor:
        """Cost of every pair, [S, B, T, N], at least float32; padded objects have meaningless rows."""
        with torch.autocast(outputs.boxes.device.type, enabled=False):
            dtype = torch.promote_types(outputs.boxes.dtype, torch.float32)
            logits, boxes = outputs.logits.to(dtype), outputs.boxes.to(dtype)
            total = self.class_cost(logits, targets.labels).mul(self.cost_class)
            boxes = boxes.movedim(-1, 0).contiguous().movedim(0, -1)  # rows of one coordinate: four times as quick
            distance, giou = self.box_distance(boxes[:, :, None], targets.boxes.to(dtype)[:, :, None])
            return total.add_(distance, alpha=self.cost_bbox).sub_(giou, alpha=self.cost_giou)

    def __call__(
        self,
        predictions: Sequence[StageOutputs],
        targets: PaddedTargets | Sequence[PaddedTargets],
        *,
        repeats: Sequence[int | tuple[int, ...]] | None = None,
    ) -> list[Tensor]:
        """Match several sets of stages at once; returns int64 [S, B, N] for each, the object's index or -1.

        targets: the objects of all sets, or one PaddedTargets a set.  repeats: how often each set's objects are to be
        matched (H-DETR: each object with k queries), a number or one for each stage; once by default. Every object of
        an image is matched so often a stage where there are enough queries. Raises NonFiniteError (a ValueError)
        naming the stage and the image where a cost is NaN or infinite.
        """
        objects_of = [targets] * len(predictions) if isinstance(targets, PaddedTargets) else targets
        if not predictions:
            return []
        sets = list(zip(predictions, objects_of, repeats or [1] * len(predictions), strict=True))
        blocks = [self.cost(part, images) for outputs, own, _ in sets for _, part, images in _blocks(outputs, own)]
        flat = torch.cat([block.flatten() for block in blocks])
        costs = flat.cpu().numpy().astype(np.float64)  # the step's one device -> host copy: the solver runs on CPU
        matches, start = [], 0
        for outputs, own, times in sets:
            stages, batch, queries = outputs.logits.shape[:3]
            matched = np.full((stages, batch, queries), -1, dtype=np.int64)
            for images, _, objects in _blocks(outputs, own):
                shape = (stages, len(objects.counts), objects.labels.shape[1], queries)
                block = costs[start : start + int(np.prod(shape))].reshape(shape)
                counts = objects.counts
                solve_assignment(block, counts, out=matched[:, images], first_image=images.start, repeats=times)
                start += block.size
            matches.append(torch.from_numpy(matched).to(flat.device, non_blocking=True))
        return matches


def _blocks(outputs: StageOutputs, targets: PaddedTargets) -> list[tuple[slice, StageOutputs, PaddedTargets]]:
    """The images as one padded block, or one by one where padding would more than half again the pairs."""
    batch, objects = targets.labels.shape
    if batch * objects <= 1.5 * targets.num_objects:
        return [(slice(0, batch), outputs, targets)]
    blocks = []
    for image, count in enumerate(targets.counts):
        one = slice(image, image + 1)
        part = StageOutputs(outputs.logits[:, one], outputs.boxes[:, one])
        own = PaddedTargets(
            targets.labels[one, :count], targets.boxes[one, :count], targets.valid[one, :count], (count,)
        )
        blocks.append((one, part, own))
    return blocks


def solve_assignment(
    costs: np.ndarray,
    counts: Sequence[int],
    *,
    out: np.ndarray,
    first_image: int = 0,
    repeats: int | Sequence[int] = 1,
) -> None:
    """Optimal assignment of each stage and image. costs: float64 [S, B, T, N]; out: int64 [S, B, N], written.

    counts: real objects of each image; the rest of T is padding.  repeats: queries that each object is to get, a number
    or one for each stage.
    Raises NonFiniteError for a NaN or an infinity.
    """
    finite = np.isfinite(costs).all()  # at once: the usual answer is yes, and a call costs more than a small stage
    for image, count in enumerate(counts):
        for stage in range(len(costs)):
            cost = costs[stage, image, :count]
            if not finite and not np.isfinite(cost).all():
                raise NonFiniteError(
                    f"the matching cost of stage {stage}, image {first_image + image} of the batch is not finite:"
                    " its predicted logits or boxes, or its targets, hold a NaN or an infinity"
                )
            times = of_stage(repeats, stage)
            objects, queries = linear_sum_assignment(cost if times == 1 else np.tile(cost, (times, 1)))
            out[stage, image, queries] = objects if times == 1 else objects % max(count, 1)
