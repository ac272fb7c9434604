"""Quality-aware assignment (PaQ-DETR, section 3.3): better predicted objects get more queries in the early stages.

From reading notes on the paper, since no code was released. The quality of a prediction for an object is
s = IoU - gamma * confidence (Eq. 6). An object gets as many queries as the k best qualities sum up to, rounded up
(Eq. 7). The paper's c is read as the probability of the object's class. Which queries these are is decided by the
usual matching, with each object repeated so many times: a query still gets one object at most.

That the counts of an image are limited by the number of queries is our own choice, after the authors' fork.
"""

from __future__ import annotations

import torch
from torch import Tensor

from crossstage.modeling.supervision.matching import Pairs


def quality_scores(pairs: Pairs, *, gamma: float = 0.4) -> Tensor:
    """The quality of every prediction for every object: IoU - gamma * probability of the object's class (Eq. 6).

    Args:
        pairs: the predictions of S stages and the objects of B images.
        gamma: weight of the confidence.

    Returns:
        [S, B, T, N] in [-gamma, 1], at least float32, without gradient; padded objects have meaningless rows.
    """
    return pairs.boxes.iou().sub_(pairs.probabilities, alpha=gamma)


def copies_of(
    scores: Tensor, valid: Tensor, *, k: int = 4, minimum: int = 1, scale: float = 1.0, share: float = 0.5
) -> Tensor:
    """How many queries each object gets: the sum of its k best scores, rounded up (Eq. 7), within limits.

    The objects of an image together get at most `share` of its queries: the largest counts are lowered to the largest
    number with which that is so. Each object keeps one query even where there are more objects than that.

    Args:
        scores: [S, B, T, N], see `quality_scores`.
        valid: bool [B, T], whether an object is real.
        k: number of scores that are summed, and the largest count.
        minimum: the smallest count, where the share allows it.
        scale: what the sum is divided by.
        share: of the queries of an image, in (0, 1].

    Returns:
        int64 [S, B, T]; 0 for padded objects.
    """
    queries = scores.shape[-1]
    best = scores.topk(min(k, queries), dim=-1, sorted=False).values.sum(-1)
    counts = (best / scale).ceil().to(torch.int64).clamp_(min=minimum) * valid
    limits = torch.arange(1, k + 1, device=scores.device)  # the last one is k itself
    totals = torch.minimum(counts[..., None], limits).sum(-2)  # [S, B, k], with counts levelled to each limit
    limit = (totals <= share * queries).sum(-1, keepdim=True).clamp_(min=1)
    return torch.minimum(counts, limit)


class QualityCopies:
    """The rule of PaQ-DETR for `HungarianMatcher.copies`; see `copies_of` for the counts.

    Args:
        k: number of best predictions that count, and the largest number of queries of an object.
        minimum: the smallest number of queries of an object.
        gamma: weight of the confidence in the quality.
        scale: what the sum of qualities is divided by.
        plain_last_stages: number of last stages where each object gets one query, so that detections need no NMS. Use
            0 for the encoder's proposals, which have one stage.
        share: of an image's queries that its objects may get together.

    Raises:
        ValueError: for an impossible value.
    """

    def __init__(
        self,
        *,
        k: int = 4,
        minimum: int = 1,
        gamma: float = 0.4,
        scale: float = 1.0,
        plain_last_stages: int = 1,
        share: float = 0.5,
    ) -> None:
        if not 1 <= minimum <= k:
            raise ValueError(f"minimum={minimum}, k={k}: expected 1 <= minimum <= k")
        if scale <= 0:
            raise ValueError(f"scale={scale}: expected a positive number")
        if plain_last_stages < 0:
            raise ValueError(f"plain_last_stages={plain_last_stages}: expected a number of stages, 0 for none")
        if not 0 < share <= 1:
            raise ValueError(f"share={share}: expected a number above 0 and at most 1")
        self.k, self.minimum, self.gamma, self.scale = k, minimum, gamma, scale
        self.plain_last_stages, self.share = plain_last_stages, share

    def __call__(self, pairs: Pairs) -> Tensor:
        """int64 [S, B, T]; 0 for padded objects."""
        stages, valid = pairs.outputs.num_stages, pairs.targets.valid
        early = self.early_stages(stages)
        scores = quality_scores(pairs, gamma=self.gamma)[:early]
        counts = copies_of(scores, valid, k=self.k, minimum=self.minimum, scale=self.scale, share=self.share)
        return torch.cat([counts, valid.to(counts.dtype).expand(stages - early, -1, -1)])

    def early_stages(self, stages: int) -> int:
        """How many of so many stages are not plain."""
        return max(0, stages - self.plain_last_stages)
