"""Multi-scale deformable attention (Deformable-DETR, section 4.1).

Coordinates and weights are computed in the dtype of the reference boxes (float32 under autocast), because a bfloat16
coordinate would move a sample by up to half a pixel. The values keep their own dtype.
"""

import math

import torch
from torch import Tensor, nn

from crossstage.layers.ops.bilinear_samples import bilinear_samples
from crossstage.structures import Levels, Memory


def deformable_sampling(values: Tensor, levels: Levels, *, locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of bilinear samples: the core of deformable attention. See `bilinear_samples`.

    Args:
        values: [B, M, H, D], D channels for each of H heads.
        levels: sizes of the L levels, whose tokens are concatenated on the M axis.
        locations: [B, N, H, L, P, 2], (x, y) in [0, 1] of each padded level; values outside are zero.
        weights: [B, N, H, L, P].

    Returns:
        [B, N, H * D], in the dtype of the values.
    """
    return bilinear_samples(values, levels, locations=locations, weights=weights).flatten(2)


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
            values = values.unflatten(-1, (self.num_heads, -1))
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
        logits = self.attention_weights(attending).view(*shape[:3], self.num_levels * self.num_points)
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
    # Expanded over the points: onnxruntime divides and adds slowly if an axis in the middle is broadcast.
    points = offsets.shape[-2]
    references = references[:, :, None, :, None].expand(-1, -1, -1, -1, points, -1)
    if references.shape[-1] == 2:
        return references + offsets / levels.sizes.to(offsets.dtype)[:, None].expand(-1, points, -1)
    return references[..., :2] + offsets / offsets.shape[-2] * references[..., 2:] * 0.5
