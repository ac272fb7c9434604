"""The equations of shared patterns (PaQ-DETR, Equations 4 and 8), and numbers that show how patterns are used.

All of them run outside autocast, in the dtype of the patterns or of the values.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def mixed_patterns(weights: Tensor, patterns: Tensor) -> Tensor:
    """Mix patterns into the contents of queries (Equation 4): content i is the sum over j of w_ij p_j.

    Args:
        weights: [B, N, m], at least 0; each row sums to 1.
        patterns: [m, C].

    Returns:
        [B, N, C].
    """
    with torch.autocast(weights.device.type, enabled=False):
        return weights.to(patterns.dtype) @ patterns


def pattern_overlap(patterns: Tensor) -> Tensor:
    """Mean of |cosine| over all pairs of different patterns (Equation 8, without its weight).

    Args:
        patterns: [m, C].

    Returns:
        0-d: 0 for orthogonal patterns, 1 for patterns on one line; 0 where there is no pair.
    """
    count = len(patterns)
    with torch.autocast(patterns.device.type, enabled=False):
        directions = F.normalize(patterns, dim=1)
        above_diagonal = (directions @ directions.T).abs().triu(diagonal=1)
        return 2 * above_diagonal.sum() / max(count * (count - 1), 1)


def pattern_entropy(weights: Tensor) -> Tensor:
    """Mean entropy of the rows of weights, as a share of the largest possible one.

    Args:
        weights: [B, N, m], each row sums to 1.

    Returns:
        0-d: 1 where all patterns have equal weights, 0 where each query takes a single pattern.
    """
    largest = math.log(weights.shape[2]) or 1.0  # a single pattern has entropy 0
    return torch.special.entr(weights).sum(dim=2).mean() / largest


def query_cosine(contents: Tensor) -> Tensor:
    """Mean cosine over all pairs of different queries of an image, and over the images.

    Args:
        contents: [B, N, C].

    Returns:
        0-d: 1 where all queries of an image have one direction, about 0 for independent ones.
    """
    count = contents.shape[1]
    directions = F.normalize(contents, dim=2)
    pairs = directions.sum(dim=1).square().sum(dim=1) - directions.square().sum(dim=(1, 2))
    return (pairs / max(count * (count - 1), 1)).mean()
