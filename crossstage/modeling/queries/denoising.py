"""Contrastive denoising (DINO, section 3.3): noised copies of the objects as extra queries with known matches.

A group holds 2M queries an image, M being the most objects that an image of the batch has: M positives, whose box
corners moved by less than half a box times the noise scale, then M negatives, moved by between that and twice as
much. Query r * M + j belongs to repetition r and object j. As in detrex, `label_noise` 0.5 flips a quarter of the
labels (the draw is compared with half the ratio), and slots of images with fewer objects hold the box (.5, .5, .5,
.5) and empty content; they are background.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from crossstage.layers.boxes import cxcywh_to_xyxy, inverse_sigmoid, xyxy_to_cxcywh
from crossstage.structures import PaddedTargets, Queries, QueryGroup


@dataclass(frozen=True)
class DenoisingNoise:
    """The random draws: R = 2 * groups repetitions of M objects in B images.

    flip: [B, R, M] uniform in [0, 1).  labels: int64 [B, R, M] replacements.  signs: [B, R, M, 4], -1 or 1, of the
    corners' moves.  shares: [B, R, M, 4] uniform in [0, 1).
    """

    flip: Tensor
    labels: Tensor
    signs: Tensor
    shares: Tensor

    @classmethod
    def draw(cls, targets: PaddedTargets, repetitions: int, num_classes: int) -> "DenoisingNoise":
        """Draw for all slots at once: no shape depends on a drawn value."""
        batch, objects = targets.labels.shape
        shape = (batch, repetitions, objects)
        boxes = targets.boxes
        return cls(
            flip=torch.rand(shape, device=boxes.device, dtype=boxes.dtype),
            labels=torch.randint(0, num_classes, shape, device=boxes.device),
            signs=torch.randint(0, 2, (*shape, 4), device=boxes.device).to(boxes.dtype) * 2 - 1,
            shares=torch.rand((*shape, 4), device=boxes.device, dtype=boxes.dtype),
        )


def noised_objects(
    targets: PaddedTargets, noise: DenoisingNoise, *, label_noise: float, box_noise: float
) -> tuple[Tensor, Tensor]:
    """Apply the draws: labels int64 [B, R, M] and boxes [B, R, M, 4]. Even repetitions are positive, odd negative.

    Corners are clamped to the image one by one, so that a negative box may come out inverted.
    """
    labels = torch.where(noise.flip < label_noise / 2, noise.labels, targets.labels[:, None])
    negative = torch.arange(noise.flip.shape[1], device=noise.flip.device)[:, None, None] % 2
    half = (targets.boxes[..., 2:] / 2).repeat(1, 1, 2)[:, None]
    corners = cxcywh_to_xyxy(targets.boxes)[:, None] + (noise.shares + negative) * noise.signs * half * box_noise
    return labels, xyxy_to_cxcywh(corners.clamp(min=0, max=1))


class Denoising(nn.Module):
    """What all kinds of denoising groups share: they make their own queries and leave the source's as they are."""

    name = "denoising"
    num_source_queries = 0
    reserved_channels = 0  # the last channels of a content that `adapt` marks queries in

    def adapt(self, queries: Queries) -> Queries:
        """The source's queries as they are."""
        return queries


class ContrastiveDenoising(Denoising):
    """Makes the denoising group of a batch.

    num_queries: positives aimed at; there are max(1, num_queries // M) groups, so 2 * num_queries bounds the group as
    long as M <= num_queries. max_objects bounds it beyond: of an image with more objects, a random choice of so many
    is noised. num_queries=0 switches denoising off.
    """

    def __init__(
        self,
        num_classes: int,
        embed_dim: int = 256,
        *,
        num_queries: int = 100,
        label_noise: float = 0.5,
        box_noise: float = 1.0,
        max_objects: int = 500,
    ) -> None:
        super().__init__()
        self.num_classes, self.num_queries = num_classes, num_queries
        self.label_noise, self.box_noise, self.max_objects = label_noise, box_noise, max_objects
        self.label_embed = nn.Embedding(num_classes, embed_dim)

    def forward(self, targets: PaddedTargets, queries: Queries, *, noise: DenoisingNoise | None = None) -> Queries:
        """The denoising group (of size 0 without objects): content [B, size, C] and boxes [B, size, 4].

        Args:
            targets: the objects.
            queries: none are taken from the source.
            noise: the draws, where they are not to be random (tests).
        """
        chosen, picked = choose_objects(targets, self.max_objects)
        objects = chosen.shape[1]
        groups = max(1, self.num_queries // objects) if objects and self.num_queries > 0 else 0
        if noise is None:
            noise = DenoisingNoise.draw(picked, 2 * groups, self.num_classes)
        labels, boxes = noised_objects(picked, noise, label_noise=self.label_noise, box_noise=self.box_noise)
        slot_is_object = picked.valid[:, None].expand(-1, 2 * groups, -1)
        content = self.label_embed(labels) * slot_is_object[..., None]
        positive = torch.arange(2 * groups, device=chosen.device)[:, None] % 2 == 0
        matches = torch.where(slot_is_object & positive, chosen[:, None], -1)
        # without objects the embedding still takes part, so that every rank reduces the same gradients
        content = content.flatten(1, 2) + 0 * self.label_embed.weight[0]
        group = denoising_group(matches, groups=groups)
        return Queries(content, slot_references(boxes, slot_is_object), (group,))


def choose_objects(targets: PaddedTargets, max_objects: int) -> tuple[Tensor, PaddedTargets]:
    """Which objects are noised: all of them, unless some image has more than max_objects; then a random choice.

    Returns their indices int64 [B, M] and the objects themselves.
    """
    batch, objects = targets.labels.shape
    chosen = torch.arange(objects, device=targets.labels.device).expand(batch, -1)
    if objects > max_objects:
        keys = torch.rand(batch, objects, device=targets.labels.device).masked_fill(~targets.valid, 2)
        chosen = keys.argsort(dim=1)[:, :max_objects]
    picked = PaddedTargets(
        labels=targets.labels.gather(1, chosen),
        boxes=targets.boxes.gather(1, chosen[..., None].expand(-1, -1, 4)),
        valid=targets.valid.gather(1, chosen),
        counts=tuple(min(count, max_objects) for count in targets.counts),
    )
    return chosen, picked


def denoising_group(matches: Tensor, *, groups: int) -> QueryGroup:
    """The group of R repetitions of M objects, int64 [B, R, M] matches; R / groups of them see each other.

    Denoising queries also see the matched ones, which do not see them.
    """
    _, repetitions, objects = matches.shape
    return QueryGroup(
        name="denoising",
        size=repetitions * objects,
        matches=matches.flatten(1),
        block=repetitions // max(groups, 1) * objects,
        sees=("matching",),
    )


def slot_references(boxes: Tensor, slot_is_object: Tensor) -> Tensor:
    """The boxes of slots, [B, R, M, 4], as references [B, R * M, 4]; (.5, .5, .5, .5) where bool [B, R, M] is False.

    They are kept off the borders, as the released models see them.
    """
    references = inverse_sigmoid(boxes).sigmoid()
    return torch.where(slot_is_object[..., None], references, 0.5).flatten(1, 2)
