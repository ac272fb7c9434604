"""DN-DETR's denoising (Li et al., CVPR 2022, section 4): the decoder must correct noised copies of the objects.

There are R groups. Each holds one copy of every object of an image, in M queries, where M is the largest number of
objects of an image in the batch; query r * M + j is object j in group r. The last channel of the content is 1 for a
denoising query and 0 for all others. A noised label may also be "no object", which is the content of the queries that
are matched.
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
    """Apply random draws to the objects.

    Args:
        targets: the objects to copy, M per image.
        noise: the draws for R groups.
        label_noise: share of labels that are replaced.
        box_noise: a centre moves by less than this times half the side of its box; a side changes by less than this
            times its length.

    Returns:
        Labels int64 [B, R, M], and boxes [B, R, M, 4], each coordinate clamped to [0, 1].
    """
    labels = torch.where(noise.flip < label_noise, noise.labels, targets.labels[:, None])
    sizes = targets.boxes[..., 2:]
    reach = torch.cat([sizes / 2, sizes], dim=-1)[:, None] * box_noise
    return labels, (targets.boxes[:, None] + noise.signs * noise.shares * reach).clamp(min=0, max=1)


class IndicatorDenoising(Denoising):
    """Makes the denoising queries of a batch, and the content of the queries that are matched.

    Args:
        num_classes: number of classes.
        embed_dim: number of channels.
        num_groups: number of copies of each object; 0 switches denoising off.
        label_noise: share of labels that are replaced by one of num_classes + 1 random labels.
        box_noise: see `noised_copies`.
        max_objects: largest number of noised objects per image; if an image has more, they are chosen at random.
    """

    reserved_channels = 1

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
        """Add the content of "no object", with indicator 0, to the content of the source's queries."""
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
