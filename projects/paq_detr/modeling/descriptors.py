"""Descriptions of an image by one vector, from which the weights of patterns are made (PaQ-DETR, section 3.2).

The paper names the steps of `PyramidDescriptor`: a convolution per level, addition from coarse to fine, gates with the
references below, and the mean. Widths, norms and upsampling are our choice: a description does not depend on padding.
"""

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from crossstage.modeling.stages import of_stage
from crossstage.structures import Memory


class MeanDescriptor(nn.Module):
    """Two linear layers on the mean of the tokens that are image.

    Args:
        embed_dim: channels C of the tokens.
        width: channels D of the description.
    """

    def __init__(self, embed_dim: int = 256, *, width: int = 256) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(embed_dim, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, memory: Memory) -> Tensor:
        """memory: tokens [B, M, C] -> [B, D]."""
        return self.layers(masked_mean(memory.tokens, memory.mask[..., None], 1)[:, 0])


class PyramidDescriptor(nn.Module):
    """Features of all levels, added from the coarsest to the finest, gated by channel and place, and averaged.

    Norms act on the channels of each place and upsampling copies the nearest cell, because the statistics of a group
    norm, and bilinear interpolation, would both read the padding.

    Args:
        embed_dim: channels C of the tokens.
        num_levels: number of levels L of the memory.
        width: channels D of the features and of the description.
        dilations: of the convolution of each level, finest first; the last one also holds for all further levels.
    """

    def __init__(
        self, embed_dim: int = 256, *, num_levels: int = 4, width: int = 128, dilations: Sequence[int] = (1, 2, 4, 8)
    ) -> None:
        super().__init__()
        self.extractors = nn.ModuleList(
            LevelFeatures(embed_dim, width, dilation=of_stage(dilations, level)) for level in range(num_levels)
        )
        self.channel_gate = ChannelGate(width)
        self.place_gate = PlaceGate(width)

    def forward(self, memory: Memory) -> Tensor:
        """memory: tokens [B, M, C] of L levels -> [B, D]. Raises ValueError if it has another number of levels."""
        levels = memory_maps(memory)
        if len(levels) != len(self.extractors):
            raise ValueError(
                f"PyramidDescriptor has num_levels={len(self.extractors)}, but the encoder gives {len(levels)} levels; "
                f"set the descriptor's num_levels={len(levels)}"
            )
        *finer, (coarsest, padding) = levels
        fused = self.extractors[-1](coarsest, padding)
        for extractor, (features, padding) in zip(reversed(self.extractors[:-1]), reversed(finer), strict=True):
            fused = extractor(features, padding) + F.interpolate(fused, size=features.shape[2:], mode="nearest")
        gated = self.place_gate(self.channel_gate(fused, padding), padding)
        return masked_mean(fused + gated, padding, (2, 3)).flatten(1)


class LevelFeatures(nn.Module):
    """1x1 convolution, dilated 3x3 convolution that reads 0 in the padding, LayerNorm over channels, ReLU."""

    def __init__(self, embed_dim: int, width: int, *, dilation: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(embed_dim, width, kernel_size=1)
        self.conv = nn.Conv2d(width, width, kernel_size=3, padding=dilation, dilation=dilation)
        self.norm = nn.LayerNorm(width)

    def forward(self, features: Tensor, padding: Tensor) -> Tensor:
        """features: [B, C, h, w]; padding: bool [B, 1, h, w] -> [B, width, h, w], in the padding without meaning."""
        features = self.conv(self.project(features).masked_fill(padding, 0))
        return self.norm(features.movedim(1, 3)).relu().movedim(3, 1)


class ChannelGate(nn.Module):
    """Scales channels by a convolution over neighbouring channels of their means (Wang et al., ECA-Net, CVPR 2020)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        kernel = int((math.log2(width) + 1) / 2) | 1  # ECA-Net's rule, made odd
        self.conv = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)

    def forward(self, features: Tensor, padding: Tensor) -> Tensor:
        """features: [B, width, h, w]; padding: bool [B, 1, h, w] -> [B, width, h, w]."""
        means = masked_mean(features, padding, (2, 3)).flatten(1)
        return features * self.conv(means[:, None])[:, 0, :, None, None].sigmoid()


class PlaceGate(nn.Module):
    """Scales rows and columns by what their means say (Hou et al., Coordinate Attention, CVPR 2021)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = max(8, width // 32)
        self.reduce = nn.Sequential(nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.Hardswish())
        self.rows = nn.Linear(hidden, width)
        self.columns = nn.Linear(hidden, width)

    def forward(self, features: Tensor, padding: Tensor) -> Tensor:
        """features: [B, width, h, w]; padding: bool [B, 1, h, w] -> [B, width, h, w]."""
        of_rows, of_columns = (masked_mean(features, padding, axis).flatten(2).mT for axis in (3, 2))
        rows = self.rows(self.reduce(of_rows)).sigmoid().mT[:, :, :, None]
        columns = self.columns(self.reduce(of_columns)).sigmoid().mT[:, :, None, :]
        return features * rows * columns


def memory_maps(memory: Memory) -> list[tuple[Tensor, Tensor]]:
    """Cut the tokens back into maps: L pairs of features [B, C, h, w] and padding, bool [B, 1, h, w], finest first."""
    tokens = memory.tokens.mT.split(memory.levels.tokens, dim=2)
    masks = memory.mask[:, None].split(memory.levels.tokens, dim=2)
    shapes = memory.levels.shapes
    return [
        (level.unflatten(2, shape), mask.unflatten(2, shape))
        for level, mask, shape in zip(tokens, masks, shapes, strict=True)
    ]


def masked_mean(values: Tensor, padding: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Mean over what is image, 0 where nothing is.

    Args:
        values: [...].
        padding: bool, broadcast to `values`, True = padding.
        dim: the axes to reduce; their size becomes 1.

    Returns:
        The means.
    """
    count = (~padding).sum(dim, keepdim=True).clamp(min=1)
    return values.masked_fill(padding, 0).sum(dim, keepdim=True) / count
