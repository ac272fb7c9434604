"""Queries that are learned anchor boxes (DAB-DETR, section 4.1)."""

import torch
from torch import Tensor, nn

from crossstage.layers.boxes import inverse_sigmoid
from crossstage.layers.mlp import xavier_uniform_matrices_
from crossstage.modeling.queries.content import Content
from crossstage.modeling.seams import ContentSource
from crossstage.structures import Memory, Queries, QueryGroup


class AnchorQueries(nn.Module):
    """Learned boxes, the same for every image.

    Args:
        num_queries: number of matched queries. With patterns it is the number of anchors, each tried with every
            pattern: N = num_patterns * num_queries, pattern by pattern.
        num_patterns: learned contents that each anchor is tried with; 0: none.
        uniform_centres: anchors start evenly over the image (DAB-DETR); else their logits start as N(0, 1), as their
            sizes always do.
        content: makes the contents; None: the patterns, or zeros without them.
        extra_queries: further anchors for extra groups.

    Raises:
        ValueError: for patterns together with `content` or `extra_queries`, which both say what a content is.
    """

    group_names = ("matching",)

    def __init__(
        self,
        *,
        num_queries: int,
        embed_dim: int = 256,
        num_patterns: int = 0,
        uniform_centres: bool = True,
        content: ContentSource | None = None,
        extra_queries: int = 0,
    ) -> None:
        super().__init__()
        if num_patterns and (content is not None or extra_queries):
            other = "extra_queries" if content is None else "content"
            raise ValueError(f"num_patterns={num_patterns} with {other}: patterns repeat all anchors; give one of them")
        self.embed_dim, self.num_patterns = embed_dim, num_patterns
        self.num_queries, self.extra_queries = max(1, num_patterns) * num_queries, extra_queries
        self.anchors = nn.Embedding(num_queries + extra_queries, 4)
        if uniform_centres:
            with torch.no_grad():
                self.anchors.weight[:, :2] = inverse_sigmoid(torch.rand(num_queries + extra_queries, 2))
        self.patterns = nn.Embedding(num_patterns, embed_dim) if num_patterns else None
        if self.patterns is not None:
            xavier_uniform_matrices_(self.patterns)
        self.content = content

    def forward(self, memory: Memory, count: int) -> Queries:
        """Content [B, count, C] and boxes [B, count, 4]; the boxes carry gradient, since they are learned."""
        anchors = self.anchors.weight.sigmoid()
        references = anchors.repeat(self.num_patterns, 1) if self.num_patterns else anchors[:count]
        content = self._content(memory, count)
        return Queries(
            content=content.values.expand(memory.tokens.shape[0], -1, -1),
            references=references.expand(memory.tokens.shape[0], -1, -1),
            groups=(QueryGroup("matching", count),),
            losses=content.losses,
        )

    def _content(self, memory: Memory, count: int) -> Content:
        """Contents, given, patterns, or zeros."""
        if self.content is not None:
            return self.content(memory, count)
        values: Tensor
        if self.patterns is None:
            values = self.anchors.weight.new_zeros(count, self.embed_dim)
        else:
            values = self.patterns.weight.repeat_interleave(len(self.anchors.weight), dim=0)
        return Content(values[None])
