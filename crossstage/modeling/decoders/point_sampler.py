"""Where an AdaMixer query looks: points around its box, in place and scale (AdaMixer, CVPR 2022, section 3.2)."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from crossstage.layers.position_vector import vector_sizes
from crossstage.layers.sampling import sample_pyramid
from crossstage.modeling.stages import of_stage
from crossstage.structures import Memory


def uniform_places(num_points: int, *, bound: float = 0.5) -> Tensor:
    """[P, 2] offsets drawn from [-bound, bound)."""
    return (torch.rand(num_points, 2) * 2 - 1) * bound


class FreeOffsets:
    """AdaMixer's first offsets: a grid over the box where P is a square number, else anywhere in it; z one level down.

    scale: the first offset in z.
    """

    def __init__(self, *, scale: float = -1.0) -> None:
        self.scale = scale

    def __call__(self, num_groups: int, num_points: int) -> Tensor:
        """[G, P, 3], in units of the box's sides and of levels."""
        side = math.isqrt(num_points)
        if side * side == num_points:
            step = (torch.arange(side) + 0.5) / side - 0.5
            places = torch.cartesian_prod(step, step).expand(num_groups, -1, -1)
        else:
            places = torch.stack([uniform_places(num_points) for _ in range(num_groups)])
        return torch.cat([places, torch.full((num_groups, num_points, 1), self.scale)], dim=-1)


class PointSampler(nn.Module):
    """Reads P points a group; one Linear gives their offsets from the box's centre.

    num_points: P (a number, or one for each stage).  strides: of the levels.  finest_scale: the z at which the first
    level counts most; None takes log2 of each level's stride, else the levels follow one apart.  offsets: the first
    offsets, a callable (G, P) -> [G, P, 3].
    """

    strides: Tensor
    centres: Tensor

    def __init__(
        self,
        embed_dim: int = 256,
        *,
        num_groups: int = 4,
        num_points: int | Sequence[int] = 32,
        strides: Sequence[int] = (4, 8, 16, 32),
        finest_scale: float | None = None,
        offsets: Callable[[int, int], Tensor] | None = None,
        stage: int = 0,
    ) -> None:
        super().__init__()
        self.num_groups, self.num_points = num_groups, of_stage(num_points, stage)
        self.register_buffer("strides", torch.tensor([float(stride) for stride in strides]), persistent=False)
        self.register_buffer("centres", scale_centres(strides, finest_scale), persistent=False)
        self.offsets = nn.Linear(embed_dim, num_groups * self.num_points * 3)
        first = (FreeOffsets() if offsets is None else offsets)(num_groups, self.num_points)
        nn.init.zeros_(self.offsets.weight)
        with torch.no_grad():
            self.offsets.bias.copy_(first.flatten())

    def forward(self, content: Tensor, vectors: Tensor, memory: Memory) -> Tensor:
        """content: [B, N, C], vectors (x, y, z, r): [B, N, 4] -> features [B, N, G, P, C / G]."""
        return sample_pyramid(memory, self.points(content, vectors), strides=self.strides, centres=self.centres)

    def points(self, content: Tensor, vectors: Tensor) -> Tensor:
        """Where the queries look, (x, y) in pixels and z: content [B, N, C], vectors [B, N, 4] -> [B, N, G, P, 3]."""
        offsets = self.offsets(content).to(vectors.dtype).unflatten(-1, (self.num_groups, self.num_points, 3))
        return offset_points(vectors, offsets)


def scale_centres(strides: Sequence[int], finest: float | None) -> Tensor:
    """[L]: the z at which each level counts most, log2 of its stride, or one apart from `finest` on."""
    if finest is None:
        return torch.tensor([math.log2(stride) for stride in strides])
    return torch.tensor([finest + level for level in range(len(strides))])


def offset_points(vectors: Tensor, offsets: Tensor) -> Tensor:
    """Points of boxes (x, y, z, r) [B, N, 4]: offsets [B, N, G, P, 3] in units of the sides and levels -> (x, y, z)."""
    centre = vectors[:, :, None, None, :3]
    size = vector_sizes(vectors)[:, :, None, None]
    return torch.cat([centre[..., :2] + offsets[..., :2] * size, centre[..., 2:] + offsets[..., 2:]], dim=-1)
