"""Contents that are mixed from patterns which all queries share, in proportions read from the image (PaQ-DETR, 3.2).

    Memory --descriptor--> [B, D] --weights--> logits [B, N, m] --softmax--> W
    W, patterns [m, C] --> contents [B, N, C]

There is no public code of the paper. The README of this project says which choices are the paper's and which are ours.
"""

import math
from dataclasses import replace
from typing import Protocol

import torch
from crossstage.projects.paq_detr.modeling.patterns import (
    mixed_patterns,
    pattern_entropy,
    pattern_overlap,
    query_cosine,
)
from torch import Tensor, nn
from torch.nn import functional as F

from crossstage.modeling.queries.content import Content
from crossstage.structures import Losses, Memory

MOST_WEIGHTS = 50_000_000
"""Parameters from which on `DenseWeights` is refused."""


class Descriptor(Protocol):
    """Describes an image by a vector (`descriptors.py`)."""

    def __call__(self, memory: Memory) -> Tensor:
        """memory: tokens [B, M, C] -> [B, D]."""
        ...


class PatternWeights(Protocol):
    """Says how much of each pattern each query takes."""

    def __call__(self, description: Tensor) -> Tensor:
        """description: [B, D] -> logits [B, N, m], a row per query; N includes the source's extra queries."""
        ...


class PatternContent(nn.Module):
    """A content source for any query source: convex combinations of m learned patterns (Equations 4, 5 and 8).

    In training it adds the loss `loss_diversity` and three metrics: `pattern_overlap` (Equation 8 without its weight),
    `pattern_entropy` and `query_cosine`; see `patterns.py`.

    Args:
        embed_dim: number of channels C.
        num_patterns: number of patterns m; they start as N(0, 1).
        descriptor: describes the image.
        weights: makes the logits of the weights from the description.
        reserved_channels: so many last channels of a content stay 0, because an extra group marks queries in them
            (DN-DETR's indicator).
        diversity: weight of the diversity loss, the paper's beta.
        diversity_scale: a further factor of the diversity loss; 1 is the paper's text.
        detach_memory: whether the encoder gets no gradient from the description.

    Raises:
        ValueError: without a pattern, or if no channel is left for the patterns.
    """

    def __init__(
        self,
        embed_dim: int = 256,
        *,
        num_patterns: int = 150,
        descriptor: Descriptor,
        weights: PatternWeights,
        reserved_channels: int = 0,
        diversity: float = 0.2,
        diversity_scale: float = 1.0,
        detach_memory: bool = False,
    ) -> None:
        super().__init__()
        if num_patterns < 1:
            raise ValueError(f"num_patterns={num_patterns}: expected at least one pattern")
        if not 0 <= reserved_channels < embed_dim:
            raise ValueError(f"reserved_channels={reserved_channels}: expected fewer than embed_dim={embed_dim}")
        self.reserved_channels, self.detach_memory = reserved_channels, detach_memory
        self.diversity_weight = diversity * diversity_scale
        self.patterns = nn.Parameter(torch.randn(num_patterns, embed_dim - reserved_channels))
        self.descriptor, self.weights = descriptor, weights

    def forward(self, memory: Memory, count: int) -> Content:
        """Contents of the first `count` queries, [B, count, C]; in training with losses and metrics."""
        if self.detach_memory:
            memory = replace(memory, tokens=memory.tokens.detach())
        logits = self.weights(self.descriptor(memory))[:, :count]
        weights = logits.to(self.patterns.dtype).softmax(dim=2)
        values = mixed_patterns(weights, self.patterns)
        losses = self._losses(weights, values) if self.training else None
        return Content(F.pad(values, (0, self.reserved_channels)), losses)

    def _losses(self, weights: Tensor, values: Tensor) -> Losses:
        overlap = pattern_overlap(self.patterns)
        with torch.no_grad():
            metrics = {
                "pattern_overlap": overlap,
                "pattern_entropy": pattern_entropy(weights),
                "query_cosine": query_cosine(values),
            }
        return Losses.of({"loss_diversity": self.diversity_weight * overlap}, metrics)


class FactorizedWeights(nn.Module):
    """Logits as products of a vector per query, the image, and a vector per pattern: <e_i * g(z), k_j> / sqrt(rank).

    Args:
        width: channels D of the description.
        num_queries, extra_queries: those of the query source; N is their sum.
        num_patterns: number of patterns m.
        rank: length of the vectors.
        temperature: divides the logits; below 1, queries begin with more different contents.

    Raises:
        ValueError: if the temperature is not positive.
    """

    def __init__(
        self,
        width: int,
        *,
        num_queries: int,
        num_patterns: int,
        extra_queries: int = 0,
        rank: int = 64,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature={temperature}: expected a positive number")
        self.scale = 1 / (math.sqrt(rank) * temperature)
        self.queries = nn.Parameter(torch.randn(num_queries + extra_queries, rank))
        self.keys = nn.Parameter(torch.randn(num_patterns, rank))
        self.image = nn.Linear(width, rank)

    def forward(self, description: Tensor) -> Tensor:
        """[B, D] -> logits [B, N, m]."""
        queries = self.queries * self.image(description)[:, None]
        return self.scale * (queries @ self.keys.T)


class DenseWeights(nn.Module):
    """Logits from two linear layers with LayerNorm and ReLU between them (Equation 5 as written).

    Args:
        width: channels D of the description.
        num_queries, extra_queries: those of the query source; N is their sum.
        num_patterns: number of patterns m.
        hidden_dim: channels between the two layers.

    Raises:
        ValueError: for more than 50 million parameters.
    """

    def __init__(
        self, width: int, *, num_queries: int, num_patterns: int, extra_queries: int = 0, hidden_dim: int = 256
    ) -> None:
        super().__init__()
        self.shape = (num_queries + extra_queries, num_patterns)
        outputs = math.prod(self.shape)
        size = (width + 3) * hidden_dim + (hidden_dim + 1) * outputs
        if size > MOST_WEIGHTS:
            raise ValueError(
                f"{self.shape[0]} queries x {num_patterns} patterns need {size / 1e6:.1f} million parameters, but the "
                f"limit is {MOST_WEIGHTS / 1e6:.0f}: take FactorizedWeights, fewer patterns, or a smaller hidden_dim"
            )
        self.layers = nn.Sequential(
            nn.Linear(width, hidden_dim), nn.LayerNorm(hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, outputs)
        )

    def forward(self, description: Tensor) -> Tensor:
        """[B, D] -> logits [B, N, m]."""
        return self.layers(description).unflatten(1, self.shape)
