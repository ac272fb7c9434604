"""Multi-scale deformable attention (Deformable-DETR, section 4.1) in plain PyTorch.

A query reads the 4 cells around each sampled point directly from the layout [B, M, H, D]. `weighted_rows` gathers,
weights and sums them in one pass, so that no feature map is permuted or copied and no sampled value is stored. On
CPU this was the fastest eager form that we measured, and it takes less memory than one `grid_sample` per level: see
`python -m benchmarks attention`. Coordinates are computed in the dtype of the reference boxes (float32 under
autocast), because a bfloat16 coordinate would move a sample by up to half a pixel.
"""

import math

import torch
from torch import Tensor, nn

from crossstage.layers.ops.weighted_rows import weighted_rows
from crossstage.structures import Levels, Memory


def deformable_sampling(values: Tensor, levels: Levels, *, locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of bilinear samples: the core of deformable attention.

    Pixel centres are at (i + 0.5) / size, as for `grid_sample` with align_corners=False.

    Args:
        values: [B, M, H, D], D channels for each of H heads.
        levels: sizes of the L levels, whose tokens are concatenated on the M axis.
        locations: [B, N, H, L, P, 2], (x, y) in [0, 1] of each padded level; values outside are zero.
        weights: [B, N, H, L, P].

    Returns:
        [B, N, H * D].
    """
    batch, tokens, heads, width = values.shape
    num_queries, num_points = locations.shape[1], locations.shape[-2]
    sizes = levels.sizes.to(locations.dtype).repeat_interleave(num_points, dim=0)  # [L * P, 2]
    column, share_x = corner_cells(locations[..., 0].flatten(-2), sizes[:, 0])
    row, share_y = corner_cells(locations[..., 1].flatten(-2), sizes[:, 1])

    # A value is row (image * M + token) * H + head of the flattened values.
    row_step = levels.sizes[:, 0].to(torch.int32).repeat_interleave(num_points) * heads
    first = levels.starts.to(torch.int32).repeat_interleave(num_points) * heads
    image = torch.arange(batch, dtype=torch.int32, device=values.device).view(batch, 1, 1, 1, 1) * (tokens * heads)
    head = torch.arange(heads, dtype=torch.int32, device=values.device).view(heads, 1, 1)
    row = row.mul_(row_step).add_(first)
    column = column.mul_(heads).add_(image + head)
    rows = row[..., :, None, :] + column[..., None, :, :]  # [B, N, H, 2 (y), 2 (x), L * P]
    bag_weights = (weights.flatten(-2)[..., None, :] * share_y)[..., :, None, :] * share_x[..., None, :, :]

    rows, bag_weights = (of_corners.flatten(3).flatten(0, 2) for of_corners in (rows, bag_weights))
    bags = weighted_rows(values.reshape(-1, width), rows, bag_weights.to(values.dtype))
    return bags.view(batch, num_queries, heads * width)


def corner_cells(coordinates: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """The two neighbouring cells of each point along one axis, and the share of each in the bilinear sample.

    The points stay on the last axis because long rows are faster.

    Args:
        coordinates: [..., Q] in [0, 1].
        size: number of cells along the axis, broadcast with `coordinates`.

    Returns:
        int32 [..., 2, Q]: indices of the cells; for a cell outside the map, the nearest cell inside.
        [..., 2, Q]: their shares; 0 for a cell outside the map.
    """
    position = coordinates * size - 0.5
    low = position.detach().floor()
    upper_share = position - low
    cell = low.unsqueeze(-2) + torch.arange(2, dtype=low.dtype, device=low.device)[:, None]
    inside = torch.minimum(cell.clamp(min=0), size.unsqueeze(-2) - 1)
    share = torch.stack([1 - upper_share, upper_share], dim=-2).masked_fill_(inside != cell, 0)
    # int32 is enough: 2**31 rows of values would be 256 GB. A NaN becomes the lowest integer or 0; the clamp makes
    # both a valid index.
    return inside.to(torch.int32).clamp_(min=0), share


class MultiScaleDeformableAttention(nn.Module):
    """Attention in which each head samples `num_points` learned locations per level; includes the residual.

    The parameters have detrex's names.

    Args:
        embed_dim: number of channels C.
        num_heads: number of heads H.
        num_levels: number of feature levels L.
        num_points: number of samples P per head and level.
        dropout: probability with which an output channel is set to 0 in training, before the residual is added.

    Raises:
        ValueError: if `embed_dim` is not a multiple of `num_heads`.
    """

    def __init__(
        self,
        embed_dim: int = 256,
        *,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim={embed_dim} must be a multiple of num_heads={num_heads}")
        self.num_heads, self.num_levels, self.num_points = num_heads, num_levels, num_points
        samples = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(embed_dim, samples * 2)
        self.attention_weights = nn.Linear(embed_dim, samples)
        self.value_proj = nn.Linear(embed_dim, embed_dim)
        self.output_proj = nn.Linear(embed_dim, embed_dim)
        self.dropout = nn.Dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as the paper does.

        Each head looks in its own direction, and its p-th point lies p cells away. All weights are equal.
        """
        nn.init.zeros_(self.sampling_offsets.weight)
        angle = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        ray = torch.stack([angle.cos(), angle.sin()], dim=-1)
        ray = ray / ray.abs().amax(dim=-1, keepdim=True)
        steps = torch.arange(1, self.num_points + 1)
        offsets = (ray[:, None, None] * steps[:, None]).expand(-1, self.num_levels, -1, -1)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self,
        query: Tensor,
        *,
        memory: Memory,
        references: Tensor,
        position: Tensor | None = None,
        identity: Tensor | None = None,
    ) -> Tensor:
        """Let the queries attend to samples of the memory. Padded tokens count as zero.

        Args:
            query: [B, N, C].
            memory: the tokens to sample from.
            references: [B, N, L, 2] points or [B, N, L, 4] boxes (cxcywh), in [0, 1] of each padded level.
            position: [B, N, C], added to the queries.
            identity: [B, N, C], the residual; None means `query`. A pre-norm layer passes its un-normed input.

        Returns:
            [B, N, C], residual included.
        """
        attending = query if position is None else query + position
        values = self.value_proj(memory.tokens).masked_fill(memory.mask[..., None], 0)
        locations, weights = self.samples(attending, references=references, levels=memory.levels)
        with torch.autocast(query.device.type, enabled=False):
            values = values.to(references.dtype).unflatten(-1, (self.num_heads, -1))
            sampled = deformable_sampling(values, memory.levels, locations=locations, weights=weights)
        output = self.output_proj(sampled)
        return (query if identity is None else identity) + self.dropout(output)

    def samples(self, attending: Tensor, *, references: Tensor, levels: Levels) -> tuple[Tensor, Tensor]:
        """Where the queries look, and how much each sample counts.

        Args:
            attending: the queries with their positions, [B, N, C].
            references: [B, N, L, 2] or [B, N, L, 4], as in `forward`.
            levels: sizes of the levels.

        Returns:
            Locations [B, N, H, L, P, 2], (x, y) in [0, 1] of each padded level, and weights [B, N, H, L, P], which sum
            to 1 over L and P.
        """
        shape = (*attending.shape[:2], self.num_heads, self.num_levels, self.num_points)
        offsets = self.sampling_offsets(attending).view(*shape, 2)
        logits = self.attention_weights(attending).view(*shape[:3], -1)
        with torch.autocast(attending.device.type, enabled=False):
            locations = sampling_locations(references, offsets.to(references.dtype), levels)
            return locations, logits.to(references.dtype).softmax(dim=-1).view(shape)


def sampling_locations(references: Tensor, offsets: Tensor, levels: Levels) -> Tensor:
    """Locations of the sampled points.

    Args:
        references: points [B, N, L, 2] or boxes [B, N, L, 4] (cxcywh), in [0, 1] of each padded level.
        offsets: [B, N, H, L, P, 2]. The unit is one cell of the level for points, and half the size of the box
            divided by P for boxes.
        levels: sizes of the levels.

    Returns:
        [B, N, H, L, P, 2], (x, y) in [0, 1] of each padded level.
    """
    references = references[:, :, None, :, None]
    if references.shape[-1] == 2:
        return references + offsets / levels.sizes.to(offsets.dtype)[:, None]
    return references[..., :2] + offsets / offsets.shape[-2] * references[..., 2:] * 0.5
