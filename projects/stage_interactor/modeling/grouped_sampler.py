"""StageInteractor's sampler (supplementary, code 2): a few anchor points per group, and details around each anchor."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from crossstage.layers.sampling import sample_pyramid
from crossstage.modeling.decoders.point_sampler import (
    FreeOffsets,
    PointSampler,
    offset_points,
    scale_centres,
    uniform_places,
)
from crossstage.modeling.stages import of_stage
from crossstage.structures import Memory

DETAIL_BOUND = 0.5 / 2**0.5
"""Largest initial distance of a detail from its anchor along each axis, in units of the box's sides."""


class GroupedSampler(nn.Module):
    """Samples P = A * K points per group: A anchors, and around each anchor K details.

    All groups and anchors share the offsets of the K details. They are scaled by 2^dz, where dz is the anchor's offset
    in z.

    Args:
        embed_dim: number of channels C.
        num_groups: number of groups G.
        num_anchors: A, one number or one per stage (see `of_stage`).
        num_details: K, one number or one per stage.
        strides: strides of the levels.
        finest_scale: z of the finest level; each further level is 1 higher.
        stage: index of the stage.
    """

    centres: Tensor
    strides: Tensor

    def __init__(
        self,
        embed_dim: int = 256,
        *,
        num_groups: int = 4,
        num_anchors: int | Sequence[int] = (8, 4),
        num_details: int | Sequence[int] = 8,
        strides: Sequence[int] = (4, 8, 16, 32),
        finest_scale: float = 3.0,
        stage: int = 0,
    ) -> None:
        super().__init__()
        self.num_groups = num_groups
        self.num_anchors, self.num_details = of_stage(num_anchors, stage), of_stage(num_details, stage)
        self.register_buffer("strides", torch.tensor([float(stride) for stride in strides]), persistent=False)
        self.register_buffer("centres", scale_centres(strides, finest_scale), persistent=False)
        self.anchors = nn.Linear(embed_dim, 3 * num_groups * self.num_anchors)
        self.details = nn.Linear(embed_dim, 3 * self.num_details)
        nn.init.zeros_(self.anchors.weight)
        nn.init.zeros_(self.details.weight)
        with torch.no_grad():
            self.anchors.bias.copy_(_level(uniform_places(num_groups * self.num_anchors)).flatten())
            self.details.bias.copy_(_level(first_details(self.num_details)).flatten())

    def forward(self, content: Tensor, vectors: Tensor, memory: Memory) -> Tensor:
        """Sample features.

        Args:
            content: [B, N, C].
            vectors: boxes as (x, y, z, r), [B, N, 4].
            memory: the tokens of the pyramid.

        Returns:
            [B, N, G, A * K, C / G]; the details of an anchor are adjacent.
        """
        return sample_pyramid(memory, self.points(content, vectors), strides=self.strides, centres=self.centres)

    def points(self, content: Tensor, vectors: Tensor) -> Tensor:
        """Where the queries look, (x, y) in pixels and z: content [B, N, C], vectors [B, N, 4] -> [B, N, G, P, 3]."""
        return offset_points(vectors, self.offsets(content).to(vectors.dtype))

    def offsets(self, content: Tensor) -> Tensor:
        """Offsets from the box's centre, in units of its sides and of levels: [B, N, C] -> [B, N, G, A * K, 3]."""
        anchors = self.anchors(content).unflatten(-1, (self.num_groups, self.num_anchors, 1, 3))
        details = self.details(content).unflatten(-1, (1, 1, self.num_details, 3))
        places = anchors[..., :2] + anchors[..., 2:].exp2() * details[..., :2]
        return torch.cat([places, anchors[..., 2:] + details[..., 2:]], dim=-1).flatten(-3, -2)


class GroupedOffsets:
    """Initial offsets of a grouped sampler for a sampler without groups of points (Table 17, "group init.")."""

    def __init__(self, *, num_details: int = 8) -> None:
        self.num_details = num_details

    def __call__(self, num_groups: int, num_points: int) -> Tensor:
        """[G, P, 3]: random anchors for each group, and the same details around all of them."""
        anchors = uniform_places(num_groups * num_points // self.num_details)
        places = anchors[:, None] + first_details(self.num_details)
        return _level(places.view(num_groups, num_points, 2))


def first_details(num_details: int) -> Tensor:
    """[K, 2]: the first detail is at its anchor, the others are around it."""
    places = uniform_places(num_details, bound=DETAIL_BOUND)
    places[0] = 0
    return places


def _level(places: Tensor) -> Tensor:
    """[..., 2] -> [..., 3] without an offset in z."""
    return torch.cat([places, torch.zeros_like(places[..., :1])], dim=-1)


def ungrouped_sampler(
    embed_dim: int = 256,
    *,
    num_groups: int = 4,
    num_anchors: int | Sequence[int] = (8, 4),
    num_details: int | Sequence[int] = 8,
    strides: Sequence[int] = (4, 8, 16, 32),
    grouped_start: bool = True,
    stage: int = 0,
) -> PointSampler:
    """Build a sampler with the same number of points as GroupedSampler, but with independent offsets (Table 17).

    Args:
        embed_dim: number of channels.
        num_groups: number of groups.
        num_anchors: see `GroupedSampler`.
        num_details: see `GroupedSampler`.
        strides: strides of the levels.
        grouped_start: whether the initial offsets are those of anchors and details ("group init.") or random in the
            box ("vanilla").
        stage: index of the stage.

    Returns:
        The sampler.
    """
    details = of_stage(num_details, stage)
    return PointSampler(
        embed_dim,
        num_groups=num_groups,
        num_points=of_stage(num_anchors, stage) * details,
        strides=strides,
        finest_scale=3.0,
        offsets=GroupedOffsets(num_details=details) if grouped_start else FreeOffsets(scale=0.0),
        stage=stage,
    )
