"""Sine and learned embeddings of positions: those of a feature map's cells, and those of boxes."""

import math

import torch
from torch import Tensor, nn


def sine_embedding(
    coordinates: Tensor, num_features: int, *, temperature: float = 10000.0, dtype: torch.dtype | None = None
) -> Tensor:
    """Interleaved sines and cosines of coordinates.

    Feature k has the period 2 pi * temperature^(2 floor(k / 2) / num_features). It is a sine for even k and a cosine
    for odd k.

    Args:
        coordinates: [...].
        num_features: number of features per coordinate.
        temperature: ratio of the longest to the shortest period, approximately.
        dtype: dtype of the periods; None means that of the coordinates (mmdetection always uses float32).

    Returns:
        [..., num_features].
    """
    index = torch.arange(num_features, device=coordinates.device, dtype=dtype or coordinates.dtype)
    period = temperature ** (2 * torch.div(index, 2, rounding_mode="floor") / num_features)
    angle = coordinates[..., None] / period
    return torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], dim=-1).flatten(-2)


def box_sine_embedding(
    boxes: Tensor, num_features: int, *, temperature: float = 10000.0, vertical_first: bool = True
) -> Tensor:
    """Sine embedding of normalised boxes or points.

    Args:
        boxes: (x, y) [..., 2] or (x, y, w, h) [..., 4].
        num_features: number of features per coordinate F.
        temperature: see `sine_embedding`.
        vertical_first: whether the blocks of features are in the order (y, x, w, h), as in DAB-DETR, or
            (x, y, w, h), as in Deformable-DETR's proposals.

    Returns:
        [..., 2 * F] or [..., 4 * F].
    """
    if vertical_first:
        boxes = torch.cat([boxes[..., 1:2], boxes[..., 0:1], boxes[..., 2:]], dim=-1)
    return sine_embedding(boxes * (2 * math.pi), num_features, temperature=temperature).flatten(-2)


class SinePositions(nn.Module):
    """Sine embedding of the cells of a padded map (DETR, section A.4): mask bool [B, h, w] -> [B, 2 * F, h, w].

    The coordinate of a cell is the number of valid cells up to it. The first F features encode y, the others x. The
    result has torch's default dtype unless the call gives a `dtype`.

    Args:
        num_features: number of features per axis F.
        temperature: see `sine_embedding`.
        normalize: whether coordinates are scaled, so that the last valid cell has the coordinate `scale`.
        offset: added to the coordinates before they are scaled.
        scale: coordinate of the last valid cell.
        eps: added to the denominator of the scaling.
    """

    def __init__(
        self,
        num_features: int,
        *,
        temperature: float = 10000.0,
        normalize: bool = True,
        offset: float = 0.0,
        scale: float = 2 * math.pi,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.num_features, self.temperature, self.normalize = num_features, temperature, normalize
        self.offset, self.scale, self.eps = offset, scale, eps

    def forward(self, mask: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
        valid = (~mask).to(dtype or torch.get_default_dtype())
        y, x = valid.cumsum(dim=1), valid.cumsum(dim=2)
        if self.normalize:
            y = (y + self.offset) / (y[:, -1:, :] + self.eps) * self.scale
            x = (x + self.offset) / (x[:, :, -1:] + self.eps) * self.scale
        features = [sine_embedding(axis, self.num_features, temperature=self.temperature) for axis in (y, x)]
        return torch.cat(features, dim=-1).permute(0, 3, 1, 2)


class LearnedPositions(nn.Module):
    """Learned embedding of rows and columns: mask bool [B, h, w] -> [B, 2 * F, h, w].

    The first F features encode x, the others y. The call raises ValueError for a map that has more rows or columns
    than there are embeddings.

    Args:
        num_features: number of features per axis F.
        rows: number of row embeddings.
        columns: number of column embeddings.
    """

    def __init__(self, num_features: int, *, rows: int = 50, columns: int = 50) -> None:
        super().__init__()
        self.row_embed = nn.Embedding(rows, num_features)
        self.col_embed = nn.Embedding(columns, num_features)
        nn.init.uniform_(self.row_embed.weight)
        nn.init.uniform_(self.col_embed.weight)

    def forward(self, mask: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
        batch, height, width = mask.shape
        if height > self.row_embed.num_embeddings or width > self.col_embed.num_embeddings:
            known = f"{self.row_embed.num_embeddings}x{self.col_embed.num_embeddings}"
            raise ValueError(f"a map of {height}x{width} cells, but positions were learned for {known}")
        x = self.col_embed.weight[:width].expand(height, -1, -1)
        y = self.row_embed.weight[:height, None].expand(-1, width, -1)
        return torch.cat([x, y], dim=-1).to(dtype or x.dtype).permute(2, 0, 1).expand(batch, -1, -1, -1)
