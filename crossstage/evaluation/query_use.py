"""Which queries work: pure functions of counts and matches.

The counts follow PaQ-DETR's released logs: a query is active in an image if its largest class probability exceeds a
threshold; active images are counted per index of the query, and queries that are never active count as 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

THRESHOLDS = tuple(round(0.05 * number, 2) for number in range(1, 13))
"""From .05 to .6: at a single threshold, a difference between two models may vanish or appear."""


def gini(counts: Tensor) -> float:
    """Gini coefficient: 0 if all queries are used equally, (n - 1) / n if one of n does everything.

    G = 2 * sum_i i * x_(i) / (n * sum x) - (n + 1) / n, with x ascending and i from 1.

    Args:
        counts: how often each query was used, not negative, [N].

    Returns:
        The coefficient; NaN if nothing was used.
    """
    ordered = counts.double().sort().values
    total, count = float(ordered.sum()), len(ordered)
    if total == 0:
        return math.nan
    rank = torch.arange(1, count + 1, dtype=ordered.dtype, device=ordered.device)
    return float(2 * (rank * ordered).sum() / (count * total)) - (count + 1) / count


def top_share(counts: Tensor, *, share: float = 0.2) -> float:
    """What part of all uses falls to the most used queries; NaN if nothing was used.

    Args:
        counts: how often each query was used, [N].
        share: part of the queries, rounded up to whole queries.

    Returns:
        A number in [0, 1].
    """
    most = counts.double().sort(descending=True).values
    total = float(most.sum())
    return math.nan if total == 0 else float(most[: math.ceil(share * len(most))].sum()) / total


def lorenz(counts: Tensor) -> Tensor:
    """The Lorenz curve: at i, the part of all uses that the i least used queries have together, [N + 1].

    The Gini coefficient is twice the area between it and the diagonal. NaN if nothing was used.
    """
    summed = F.pad(counts.double().sort().values.cumsum(0), (1, 0))
    return summed / summed[-1]


def activations(logits: Tensor, thresholds: Tensor) -> Tensor:
    """In how many images each query is active.

    Args:
        logits: of one stage, [B, N, K].
        thresholds: probabilities, [R].

    Returns:
        int64 [R, N].
    """
    scores = logits.amax(-1).sigmoid()
    return (scores > thresholds.to(scores)[:, None, None]).sum(1)


def shuffled(values: Tensor, generator: torch.Generator) -> Tensor:
    """The control: the queries of each image in an order of chance, so that no index is special.

    Args:
        values: [B, N, ...].
        generator: on the CPU.

    Returns:
        The same values, [B, N, ...].
    """
    order = torch.stack([torch.randperm(values.shape[1], generator=generator) for _ in range(len(values))])
    return values[torch.arange(len(values))[:, None].to(values.device), order.to(values.device)]


def owners(matches: Tensor, *, num_objects: int) -> Tensor:
    """Which queries each object has.

    Args:
        matches: int64 [..., N], the object's index or -1.
        num_objects: T, the largest number of objects.

    Returns:
        bool [..., T, N].
    """
    return matches[..., None, :] == torch.arange(num_objects, device=matches.device)[:, None]


def instability(before: Tensor, after: Tensor, valid: Tensor) -> tuple[int, int]:
    """How many objects change their queries from one assignment to another.

    An object keeps its queries only if it has exactly the same ones. Two stages of a decoder give StageInteractor's
    Figure 7; two checkpoints give the instability of DN-DETR.

    Args:
        before: int64 [B, N], the object's index or -1.
        after: int64 [B, N].
        valid: bool [B, T], False in the padding.

    Returns:
        The number of objects that change, and the number of objects.
    """
    first, second = (owners(matches, num_objects=valid.shape[1]) for matches in (before, after))
    changed = (first != second).any(-1) & valid
    return int(changed.sum()), int(valid.sum())


def mean_cosine(vectors: Tensor) -> Tensor:
    """Mean cosine of all pairs of different vectors: [..., N, C] -> [...]. 1: all point the same way."""
    unit = F.normalize(vectors.float(), dim=-1)
    count = vectors.shape[-2]
    return (unit.sum(-2).square().sum(-1) - unit.square().sum((-2, -1))) / (count * (count - 1))
