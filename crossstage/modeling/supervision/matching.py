"""Matching of queries and objects: one cost for all stages and images, one transfer, one solver.

The cost of a pair is that of DETR (section 3.1) with the focal class cost of Deformable-DETR. Costs are built as
[S, B, T, N]: contiguous rows of queries are what scipy's solver reads fastest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from crossstage.errors import NonFiniteError
from crossstage.layers.boxes import BoxDistance, BoxPairs
from crossstage.modeling.seams import ClassCost, CopiesRule, Matcher
from crossstage.modeling.stages import of_stage
from crossstage.modeling.supervision.solver import assign_queries
from crossstage.structures import PaddedTargets, StageOutputs


class Pairs:
    """Every prediction beside every object of its image: what costs and rules of copies are computed from.

    Each value is computed when it is first read, and once. All are at least float32 and carry no gradient; nothing may
    change them.

    Args:
        outputs: logits [S, B, N, K] and boxes [S, B, N, 4].
        targets: the objects of the B images; padded ones have meaningless values.
    """

    def __init__(self, outputs: StageOutputs, targets: PaddedTargets) -> None:
        self.outputs, self.targets = outputs, targets

    @cached_property
    def probabilities(self) -> Tensor:
        """Sigmoid probability of the object's class, [S, B, T, N]. Only the objects' classes are computed."""
        return columns_of_objects(_exact(self.outputs.logits), self.targets.labels).sigmoid_()

    @cached_property
    def boxes(self) -> BoxPairs:
        """The boxes, first, and the objects, second: [S, B, T, N]."""
        boxes = _exact(self.outputs.boxes)
        objects = self.targets.boxes.to(boxes.dtype)[..., None].movedim(-2, 0)
        predicted = boxes.movedim(-1, 0).contiguous()[:, :, :, None]  # rows of one coordinate: four times as quick
        return BoxPairs(predicted.unbind(0), objects.unbind(0))


def _exact(values: Tensor) -> Tensor:
    return values.detach().to(torch.promote_types(values.dtype, torch.float32))


class FocalClassCost:
    """Class cost in the form of the focal loss: what a positive would cost minus what it costs as a negative."""

    def __init__(self, *, alpha: float = 0.25, gamma: float = 2.0, eps: float = 1e-8) -> None:
        self.alpha, self.gamma, self.eps = alpha, gamma, eps

    def __call__(self, pairs: Pairs) -> Tensor:
        """The cost of every pair, [S, B, T, N]."""
        probability = pairs.probabilities
        improbability = 1 - probability
        positive = (probability + self.eps).log_().mul_(improbability**self.gamma)
        negative = (improbability + self.eps).log_().mul_(probability**self.gamma)
        return negative.mul_(1 - self.alpha).sub_(positive, alpha=self.alpha)


class SoftmaxClassCost:
    """Minus the probability of the object's class (DETR): logits have a last column for "no object"."""

    def __call__(self, pairs: Pairs) -> Tensor:
        """The cost of every pair, [S, B, T, N], from logits [S, B, N, K + 1]."""
        return -columns_of_objects(_exact(pairs.outputs.logits).softmax(dim=-1), pairs.targets.labels)


def columns_of_objects(values: Tensor, labels: Tensor) -> Tensor:
    """Each object's class column, [S, B, N, K], int64 [B, T] -> [S, B, T, N]."""
    stages, _, queries, _ = values.shape
    index = labels[None, :, None].expand(stages, -1, queries, -1)
    return values.gather(-1, index).transpose(-1, -2).contiguous()


@dataclass(frozen=True)
class MatchingProblem:
    """The costs of some images of a batch, on the device.

    Attributes:
        images: which images.
        cost: [S, b, T, N], one row per object; rows of padded objects are ignored.
        copies: int64 [S, b, T], how many queries each object is to get, or None: the matcher knows it without.
        counts: real objects of each image.
    """

    images: slice
    cost: Tensor
    copies: Tensor | None
    counts: tuple[int, ...]


@dataclass(frozen=True)
class MatchRequest:
    """One query group to be matched: by whom, and what with what."""

    matcher: Matcher
    outputs: StageOutputs
    targets: PaddedTargets


@dataclass(frozen=True)
class PendingMatches:
    """A matching whose costs are on their way to the host; until `finish`, the device and the host can do other work.

    Attributes:
        requests: one per query group.
        problems: those of each request, in order.
        host: the costs and copies of all problems, flat, on the host; valid once they have arrived.
        arrived: the end of the transfer; None where there is nothing to wait for (CPU).
    """

    requests: Sequence[MatchRequest]
    problems: Sequence[Sequence[MatchingProblem]]
    host: Tensor
    arrived: torch.cuda.Event | None

    def finish(self) -> list[Tensor]:
        """Wait for the costs and solve.

        Returns:
            int64 [S, B, N] per request: the object's index in its image, or -1.

        Raises:
            NonFiniteError: if a cost is NaN or infinite; names the stage and the image.
        """
        if self.arrived is not None:
            self.arrived.synchronize()  # the step's one wait for the device: the solver runs on the CPU
        sizes = [tensor.numel() for tensor in _tensors(self.problems)]
        arrays = iter(np.split(self.host.numpy().astype(np.float64), np.cumsum(sizes)[:-1]))
        found = []
        for request, group in zip(self.requests, self.problems, strict=True):
            logits = request.outputs.logits
            matches = torch.full(logits.shape[:3], -1, dtype=torch.int64, pin_memory=logits.is_cuda)
            for one in group:
                cost = next(arrays).reshape(one.cost.shape)
                copies = None if one.copies is None else next(arrays).reshape(one.copies.shape).astype(np.int64)
                request.matcher.assign(cost, one, copies=copies, out=matches.numpy()[:, one.images])
            found.append(matches.to(logits.device, non_blocking=True))
        return found


def start_matching(requests: Sequence[MatchRequest]) -> PendingMatches:
    """Compute the costs of several query groups, and start their one transfer from device to host."""
    problems = [request.matcher.problems(request.outputs, request.targets) for request in requests]
    tensors = _tensors(problems)
    flat = torch.cat([tensor.flatten() for tensor in tensors]) if tensors else torch.empty(0)
    # The step's one device -> host copy. Only CUDA's is known to be complete by an event; it goes to pinned memory.
    host = flat.to("cpu", non_blocking=flat.is_cuda)
    arrived = torch.cuda.current_stream(flat.device).record_event() if flat.is_cuda else None
    return PendingMatches(requests, problems, host, arrived)


def match_together(requests: Sequence[MatchRequest]) -> list[Tensor]:
    """Match several query groups at once: `start_matching` and `PendingMatches.finish` without work in between."""
    return start_matching(requests).finish()


def _tensors(problems: Sequence[Sequence[MatchingProblem]]) -> list[Tensor]:
    """The tensors that travel to the host, in order."""
    return [tensor for group in problems for one in group for tensor in (one.cost, one.copies) if tensor is not None]


class HungarianMatcher:
    """Assigns each object to one query, or to several, stage by stage and image by image, at the least total cost.

    Args:
        class_cost: FocalClassCost or SoftmaxClassCost.
        box_distance: how boxes are compared.
        cost_class, cost_bbox, cost_giou: weights of the three costs.
        copies: how many queries each object gets: a number (H-DETR); one per stage, the last one for all later
            stages (hybrid layer matching; StageInteractor, Table 1); or a rule, called as (pairs) -> int64 [S, B, T]
            on the device. A query still gets one object at most.
    """

    def __init__(
        self,
        *,
        class_cost: ClassCost | None = None,
        box_distance: BoxDistance | None = None,
        cost_class: float = 2.0,
        cost_bbox: float = 5.0,
        cost_giou: float = 2.0,
        copies: int | Sequence[int] | CopiesRule = 1,
    ) -> None:
        self.class_cost = FocalClassCost() if class_cost is None else class_cost
        self.box_distance = BoxDistance() if box_distance is None else box_distance
        self.cost_class, self.cost_bbox, self.cost_giou = cost_class, cost_bbox, cost_giou
        self.copies = copies

    def __call__(self, outputs: StageOutputs, targets: PaddedTargets) -> Tensor:
        """Match one set of stages: int64 [S, B, N], see `match_together`."""
        return match_together([MatchRequest(self, outputs, targets)])[0]

    def cost(self, pairs: Pairs) -> Tensor:
        """Cost of every pair, [S, B, T, N], at least float32; padded objects have meaningless rows."""
        distance, giou = self.box_distance.of_pairs(pairs.boxes)
        total = self.class_cost(pairs).mul(self.cost_class)
        return total.add_(distance, alpha=self.cost_bbox).sub_(giou, alpha=self.cost_giou)

    @torch.no_grad()
    def problems(self, outputs: StageOutputs, targets: PaddedTargets) -> list[MatchingProblem]:
        """What is to be solved, on the device: the images as one padded block, or one by one."""
        rule = self.copies if callable(self.copies) else None
        found = []
        with torch.autocast(outputs.boxes.device.type, enabled=False):
            for images, part, own in _blocks(outputs, targets):
                pairs = Pairs(part, own)
                found.append(
                    MatchingProblem(images, self.cost(pairs), None if rule is None else rule(pairs), own.counts)
                )
        return found

    def assign(self, cost: np.ndarray, problem: MatchingProblem, *, copies: np.ndarray | None, out: np.ndarray) -> None:
        """Solve a problem on the host.

        Args:
            cost: float64 [S, b, T, N].
            problem: where the cost is from.
            copies: int64 [S, b, T], where a rule gives them.
            out: int64 [S, b, N], written: the object's index of each query that gets one.
        """
        own_copies = 1 if callable(self.copies) else self.copies  # those of a rule are in `copies`
        finite = np.isfinite(cost).all()  # at once: the usual answer is yes, and a call costs more than a small stage
        for image, count in enumerate(problem.counts):
            for stage in range(len(cost)):
                own = cost[stage, image, :count]
                if not finite and not np.isfinite(own).all():
                    raise NonFiniteError(
                        f"the matching cost of stage {stage}, image {problem.images.start + image} of the batch is not"
                        " finite: its predicted logits or boxes, or its targets, hold a NaN or an infinity"
                    )
                times = of_stage(own_copies, stage) if copies is None else copies[stage, image, :count]
                objects, queries = self.pairs(own, times, later_stages=len(cost) - 1 - stage)
                out[stage, image, queries] = objects

    def pairs(self, cost: np.ndarray, times: int | np.ndarray, *, later_stages: int) -> tuple[np.ndarray, np.ndarray]:
        """Solve one image at one stage; a matcher of another kind may decide otherwise.

        Args:
            cost: finite costs, [T, N].
            times: how many queries each object is to get, one number or [T].
            later_stages: number of stages after this one.

        Returns:
            Indices of objects, and of their queries, each [number of pairs].
        """
        return assign_queries(cost, times)


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
