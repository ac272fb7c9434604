"""Queries that are learned anchor boxes (DAB-DETR, section 4.1)."""

import torch
from torch import Tensor, nn

from crossstage.layers.boxes import inverse_sigmoid
from crossstage.layers.mlp import xavier_uniform_matrices_
from crossstage.modeling.queries.denoising import group_attention_mask
from crossstage.structures import Memory, PaddedTargets, Queries, QueryGroup


class AnchorQueries(nn.Module):
    """`num_queries` learned boxes, the same for every image, without content of their own.

    num_patterns: learned contents that each anchor is tried with (0: none); N = num_patterns * num_queries, pattern
    by pattern.  uniform_centres: anchors start evenly over the image (DAB-DETR); else their logits start N(0, 1), as
    their sizes always do.  denoising: makes the extra group in training, and its `empty_content()` [C] is the content
    of a query without object (DN-DETR); or None.
    """

    def __init__(
        self,
        *,
        num_queries: int,
        embed_dim: int = 256,
        num_patterns: int = 0,
        uniform_centres: bool = True,
        denoising: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.anchors = nn.Embedding(num_queries, 4)
        if uniform_centres:
            with torch.no_grad():
                self.anchors.weight[:, :2] = inverse_sigmoid(torch.rand(num_queries, 2))
        self.patterns = nn.Embedding(num_patterns, embed_dim) if num_patterns else None
        if self.patterns is not None:
            xavier_uniform_matrices_(self.patterns)
        self.denoising = denoising

    def forward(self, memory: Memory, targets: PaddedTargets | None = None) -> Queries:
        """targets: in training; they ask for denoising queries, which come first on the query axis."""
        batch = memory.tokens.shape[0]
        content, references = self._matching()
        matching = QueryGroup("matching", len(content))
        groups: tuple[QueryGroup, ...] = (matching,)
        content, references = content.expand(batch, -1, -1), references.expand(batch, -1, -1)
        if targets is not None and self.denoising is not None:
            noised, noised_content, noised_references = self.denoising(targets)
            groups = (noised, matching)
            content = torch.cat([noised_content, content], dim=1)
            references = torch.cat([noised_references.to(references.dtype), references], dim=1)
        return Queries(content, references, groups, group_attention_mask(groups, content.device))

    def _matching(self) -> tuple[Tensor, Tensor]:
        """Content [N, C] and boxes [N, 4] of the queries that are to be matched; both learn."""
        anchors = self.anchors.weight
        if self.patterns is None:
            content = anchors.new_zeros(len(anchors), self.embed_dim)
        else:
            content = self.patterns.weight.repeat_interleave(len(anchors), dim=0)
        if self.denoising is not None:
            content = content + self.denoising.empty_content()
        return content, anchors.sigmoid().repeat(len(content) // len(anchors), 1)
