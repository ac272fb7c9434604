"""Necks, which give all feature maps the same number of channels.

`ChannelMapper` is the neck of Deformable-DETR and its successors, `SharedNormMapper` that of AdaMixer and its
successors, `SingleLevelProjection` that of DETR.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crossstage.structures import FeaturePyramid


class ConvNorm(nn.Module):
    """Convolution, then optional GroupNorm and activation: [B, in, h, w] -> [B, out, h', w'].

    Args:
        in_channels: number of input channels.
        out_channels: number of output channels.
        kernel_size: side of the kernel; padding keeps the size of the map if the stride is 1.
        stride: stride of the convolution.
        groups: number of groups of the GroupNorm; None means no norm.
        activation: applied last; None means none.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int,
        stride: int = 1,
        groups: int | None = None,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride=stride, padding=(kernel_size - 1) // 2)
        self.norm = nn.Identity() if groups is None else nn.GroupNorm(groups, out_channels)
        self.activation = nn.Identity() if activation is None else activation
        weight, bias = self.conv.parameters()
        nn.init.xavier_uniform_(weight)
        nn.init.zeros_(bias)

    def forward(self, features: Tensor) -> Tensor:
        return self.activation(self.norm(self.conv(features)))


class ChannelMapper(nn.Module):
    """One convolution per backbone map, and strided 3x3 convolutions for extra levels (Deformable-DETR, section A.2).

    The first extra level reads the last backbone map; each later one reads the level before it.

    Args:
        in_channels: number of channels of each backbone map, finest first.
        out_channels: number of channels C of every level.
        num_levels: number of levels L, extra levels included.
        kernel_size: kernel of the convolutions of the backbone maps.
        groups: number of groups of the GroupNorm after each convolution; None means no norm.
        activation: applied after each norm; None means none.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 256,
        *,
        num_levels: int = 4,
        kernel_size: int = 1,
        groups: int | None = 32,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        extra_in = [in_channels[-1]] + [out_channels] * (num_levels - len(in_channels) - 1)
        same: dict[str, Any] = {"groups": groups, "activation": activation}
        self.convs = nn.ModuleList(
            ConvNorm(channels, out_channels, kernel_size=kernel_size, **same) for channels in in_channels
        )
        self.extra_convs = nn.ModuleList(
            ConvNorm(channels, out_channels, kernel_size=3, stride=2, **same)
            for channels in extra_in[: num_levels - len(in_channels)]
        )

    def forward(self, maps: Sequence[Tensor], mask: Tensor) -> FeaturePyramid:
        """Build the pyramid.

        Args:
            maps: one [B, in, h, w] per backbone level, finest first.
            mask: bool [B, H, W] of the padded images, True = padding.

        Returns:
            L levels [B, C, h, w].
        """
        levels = [conv(level) for conv, level in zip(self.convs, maps, strict=True)]
        source = maps[-1]
        for conv in self.extra_convs:
            source = conv(source)
            levels.append(source)
        return pyramid(levels, mask)


class SharedNormMapper(nn.Module):
    """One convolution per level, then one GroupNorm that all levels share.

    AdaMixer uses kernel size 1 without activation, DEQDet kernel size 3 with a ReLU.

    Args:
        in_channels: number of channels of each backbone map, finest first.
        out_channels: number of channels C of every level.
        kernel_size: kernel of the convolutions.
        groups: number of groups of the GroupNorm.
        activation: applied between convolution and norm; None means none.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 256,
        *,
        kernel_size: int = 1,
        groups: int = 32,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            ConvNorm(channels, out_channels, kernel_size=kernel_size, activation=activation) for channels in in_channels
        )
        self.norm = nn.GroupNorm(groups, out_channels)

    def forward(self, maps: Sequence[Tensor], mask: Tensor) -> FeaturePyramid:
        """Build the pyramid from maps [B, in, h, w], finest first, and the padding mask, bool [B, H, W]."""
        return pyramid([self.norm(conv(level)) for conv, level in zip(self.convs, maps, strict=True)], mask)


class SingleLevelProjection(nn.Module):
    """DETR's neck: a 1x1 convolution of the coarsest backbone map gives a pyramid of one level."""

    def __init__(self, in_channels: int, out_channels: int = 256) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=1)

    def forward(self, maps: Sequence[Tensor], mask: Tensor) -> FeaturePyramid:
        """Build the pyramid from the last of the maps [B, in, h, w] and the padding mask, bool [B, H, W]."""
        return pyramid([self.conv(maps[-1])], mask)


def pyramid(levels: Sequence[Tensor], mask: Tensor) -> FeaturePyramid:
    """Combine the levels with their padding masks and the sizes of the unpadded images.

    Args:
        levels: L maps [B, C, h, w].
        mask: bool [B, H, W] of the padded images, True = padding.

    Returns:
        The pyramid; each level's mask is the nearest-neighbour resize of `mask`.
    """
    dtype = torch.promote_types(levels[0].dtype, torch.float32)  # bfloat16 cannot represent a size of 1333 exactly
    rows, columns = (~mask[:, :, 0]).sum(-1), (~mask[:, 0]).sum(-1)
    return FeaturePyramid(
        maps=tuple(levels),
        masks=tuple(nearest_mask(mask, level.shape[-2], level.shape[-1]) for level in levels),
        image_sizes=torch.stack([columns, rows], dim=-1).to(dtype),
    )


def nearest_mask(mask: Tensor, height: int, width: int) -> Tensor:
    """Nearest-neighbour resize of a mask: bool [B, H, W] -> [B, height, width]; row i reads row i * H // height."""
    rows = torch.arange(height, device=mask.device) * mask.shape[1] // height
    columns = torch.arange(width, device=mask.device) * mask.shape[2] // width
    return mask[:, rows][:, :, columns]
