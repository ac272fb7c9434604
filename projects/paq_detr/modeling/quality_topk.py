"""Eq. 7 of PaQ-DETR read literally: an object gets its best predictions by quality, whatever they cost.

The authors' fork repeats objects in the usual matching instead, which is the default here (`quality.QualityCopies`).
"""

from __future__ import annotations

import numpy as np
import torch
from crossstage.projects.paq_detr.modeling.quality import QualityCopies, quality_scores
from torch import Tensor

from crossstage.modeling.supervision.matching import HungarianMatcher, Pairs


def best_queries(scores: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give each object so many of its best queries; a query that several objects want is that of the highest score.

    An object that loses a query gets no other one, as in SimOTA.

    Args:
        scores: [T, N].
        times: how many queries each object wants, [T].

    Returns:
        Indices of objects, and of their queries, each [number of pairs].
    """
    order = np.argsort(-scores, axis=1, kind="stable")
    wanted = np.zeros(scores.shape, dtype=bool)
    np.put_along_axis(wanted, order, np.arange(scores.shape[1]) < times[:, None], axis=1)
    queries = np.flatnonzero(wanted.any(axis=0))
    objects = np.where(wanted, scores, -np.inf)[:, queries].argmax(axis=0) if len(queries) else queries
    return objects, queries


class QualityTopK(HungarianMatcher):
    """Matches by quality alone in the early stages, and one-to-one at the least cost in the plain last stages.

    Arguments are those of HungarianMatcher, of which `copies` must be `QualityCopies`. To use it after `with_quality`:
    `model.criterion.groups.matching.matcher._target_ = QualityTopK`.
    """

    def cost(self, pairs: Pairs) -> Tensor:
        """The cost of HungarianMatcher, and minus the quality in the early stages.

        Raises:
            TypeError: if `copies` is not QualityCopies, which decides which stages are early.
        """
        rule = self.copies
        if not isinstance(rule, QualityCopies):
            raise TypeError(f"QualityTopK: copies is a {type(rule).__name__}; expected QualityCopies, see with_quality")
        early = rule.early_stages(pairs.outputs.num_stages)
        scores = quality_scores(pairs, gamma=rule.gamma)[:early]
        return torch.cat([-scores, super().cost(pairs)[early:]])

    def pairs(self, cost: np.ndarray, times: int | np.ndarray, *, later_stages: int) -> tuple[np.ndarray, np.ndarray]:
        """The best queries of each object, or the cheapest assignment in the plain last stages."""
        if isinstance(self.copies, QualityCopies) and later_stages < self.copies.plain_last_stages:
            return super().pairs(cost, times, later_stages=later_stages)
        return best_queries(-cost, np.broadcast_to(times, len(cost)))
