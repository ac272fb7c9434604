"""Queries of the AdaMixer family: learned content, and boxes that all begin as the whole image."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossstage.modeling.queries.content import LearnedContent
from crossstage.modeling.seams import ContentSource
from crossstage.structures import Memory, Queries, QueryGroup


class BoxQueries(nn.Module):
    """`num_queries` contents (AdaMixer, section 3.4); the decoder refines their boxes from the whole image.

    Args:
        content: makes the contents; None: one learned vector per query.
        extra_queries: further queries for extra groups.
    """

    group_names = ("matching",)
    boxes: Tensor

    def __init__(
        self, *, num_queries: int, embed_dim: int = 256, content: ContentSource | None = None, extra_queries: int = 0
    ) -> None:
        super().__init__()
        self.num_queries, self.extra_queries = num_queries, extra_queries
        if content is None:
            content = LearnedContent(num_queries, embed_dim, extra_queries=extra_queries)
        self.content = content
        self.register_buffer("boxes", torch.tensor([0.5, 0.5, 1.0, 1.0]).repeat(num_queries + extra_queries, 1))

    def forward(self, memory: Memory, count: int) -> Queries:
        """Content [B, count, C], each query normalised on its own, and boxes [B, count, 4]."""
        content = self.content(memory, count)
        boxes = self.boxes[:count].to(memory.image_sizes.dtype).expand(memory.tokens.shape[0], -1, -1)
        return Queries(
            content=F.layer_norm(content.values, content.values.shape[2:]).expand(boxes.shape[0], -1, -1),
            references=boxes,
            groups=(QueryGroup("matching", count),),
            losses=content.losses,
        )
