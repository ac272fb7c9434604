"""Queries of the AdaMixer family: learned content, and boxes that all begin as the whole image."""

import torch
from torch import nn
from torch.nn import functional as F

from crossstage.structures import Memory, PaddedTargets, Queries, QueryGroup


class BoxQueries(nn.Module):
    """`num_queries` learned contents (AdaMixer, section 3.4); the decoder makes their boxes from the whole image.

    repeats: with how many queries each object is matched, for all stages or stage by stage (hybrid layer matching;
    StageInteractor, Table 1).
    """

    def __init__(self, *, num_queries: int, embed_dim: int = 256, repeats: int | tuple[int, ...] = 1) -> None:
        super().__init__()
        self.repeats = repeats if isinstance(repeats, int) else tuple(repeats)
        self.content = nn.Embedding(num_queries, embed_dim)
        self.register_buffer("boxes", torch.tensor([0.5, 0.5, 1.0, 1.0]).repeat(num_queries, 1))

    def forward(self, memory: Memory, targets: PaddedTargets | None = None) -> Queries:
        """Content [B, N, C], each query normalised on its own, and boxes [B, N, 4]; the same for every image."""
        batch = len(memory.image_sizes)
        content = F.layer_norm(self.content.weight, self.content.weight.shape[1:])
        return Queries(
            content=content.expand(batch, -1, -1),
            references=self.boxes.to(memory.image_sizes.dtype).expand(batch, -1, -1),
            groups=(QueryGroup("matching", len(content), repeats=self.repeats),),
        )
