"""DN-DETR's denoising (Li et al., CVPR 2022, section 4): noised copies of the objects to be put right again.

A group holds one copy of each of an image's objects, M queries where M is the most objects that an image of the batch
has; query r * M + j belongs to repetition r and object j. The last channel of every content says whether it is a
denoising query (1) or not (0). A label may be drawn as "no object", the content of the queries that are matched.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from crossstage.modeling.queries.denoising import (
    Denoising,
    DenoisingNoise,
    choose_objects,
    denoising_group,
    slot_references,
)
from crossstage.structures import PaddedTargets, Queries


def noised_copies(
    targets: PaddedTargets, noise: DenoisingNoise, *, label_noise: float, box_noise: float
) -> tuple[Tensor, Tensor]:
    """Apply the draws: labels int64 [B, R, M] and boxes [B, R, M, 4], clamped coordinate by coordinate to [0, 1].

    A centre moves by less than box_noise times half its box, a side changes by less than box_noise times itself.
    """
    labels = torch.where(noise.flip < label_noise, noise.labels, targets.labels[:, None])
    sizes = targets.boxes[..., 2:]
    reach = torch.cat([sizes / 2, sizes], dim=-1)[:, None] * box_noise
    return labels, (targets.boxes[:, None] + noise.signs * noise.shares * reach).clamp(min=0, max=1)


class IndicatorDenoising(Denoising):
    """Makes the denoising group of a batch, and the content of queries that are not in it.

    num_groups: copies of each object; 0 switches denoising off.  label_noise: share of labels that are drawn anew,
    of num_classes + 1.  max_objects: of an image with more objects, a random choice of so many is noised.
    """

    def __init__(
        self,
        num_classes: int,
        embed_dim: int = 256,
        *,
        num_groups: int = 5,
        label_noise: float = 0.2,
        box_noise: float = 0.4,
        max_objects: int = 500,
    ) -> None:
        super().__init__()
        self.num_classes, self.num_groups = num_classes, num_groups
        self.label_noise, self.box_noise, self.max_objects = label_noise, box_noise, max_objects
        self.label_embed = nn.Embedding(num_classes + 1, embed_dim - 1)

    def adapt(self, queries: Queries) -> Queries:
        """Give the source's queries the content of "no object", with indicator 0, on top of their own."""
        empty = nn.functional.pad(self.label_embed.weight[-1], (0, 1))
        return replace(queries, content=queries.content + empty)

    def forward(self, targets: PaddedTargets, queries: Queries, *, noise: DenoisingNoise | None = None) -> Queries:
        """The denoising group; arguments and result as those of `ContrastiveDenoising`."""
        chosen, picked = choose_objects(targets, self.max_objects)
        groups = self.num_groups if chosen.shape[1] else 0
        if noise is None:
            noise = DenoisingNoise.draw(picked, groups, self.num_classes + 1)
        labels, boxes = noised_copies(picked, noise, label_noise=self.label_noise, box_noise=self.box_noise)
        slot_is_object = picked.valid[:, None].expand(-1, groups, -1)
        content = nn.functional.pad(self.label_embed(labels), (0, 1), value=1.0) * slot_is_object[..., None]
        group = denoising_group(torch.where(slot_is_object, chosen[:, None], -1), groups=groups)
        return Queries(content.flatten(1, 2), slot_references(boxes, slot_is_object), (group,))
