"""Backbone maps to one width: the channel mapper of Deformable-DETR and its successors, and DETR's single level."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crossstage.structures import FeaturePyramid


class ConvNorm(nn.Module):
    """Convolution, then optional GroupNorm and activation: [B, in, h, w] -> [B, out, h', w']."""

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
    """One convolution a level; further levels by strided 3x3 convolutions (Deformable-DETR, section A.2).

    The first further level reads the last backbone map itself, each later one the level before it.
    groups: of the GroupNorm behind each convolution; None for no norm.
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
        """maps: one [B, in, h, w] a backbone level, finest first.  mask: bool [B, H, W] of the padded images."""
        levels = [conv(level) for conv, level in zip(self.convs, maps, strict=True)]
        source = maps[-1]
        for conv in self.extra_convs:
            source = conv(source)
            levels.append(source)
        return pyramid(levels, mask)


class SharedNormMapper(nn.Module):
    """One convolution a level, then one GroupNorm that all levels share (AdaMixer's channel mapping).

    kernel_size 1 without activation is AdaMixer's, 3 with a ReLU is DEQDet's.
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
        """maps: one [B, in, h, w] a backbone level, finest first.  mask: bool [B, H, W] of the padded images."""
        return pyramid([self.norm(conv(level)) for conv, level in zip(self.convs, maps, strict=True)], mask)


class SingleLevelProjection(nn.Module):
    """DETR's neck: a 1x1 convolution of the coarsest backbone map, a pyramid of one level."""

    def __init__(self, in_channels: int, out_channels: int = 256) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=1)

    def forward(self, maps: Sequence[Tensor], mask: Tensor) -> FeaturePyramid:
        """maps: [B, in, h, w] each, of which the last is read.  mask: bool [B, H, W] of the padded images."""
        return pyramid([self.conv(maps[-1])], mask)


def pyramid(levels: Sequence[Tensor], mask: Tensor) -> FeaturePyramid:
    """L maps [B, C, h, w] with what the padding mask, bool [B, H, W], says of them: theirs, and the images' sizes."""
    dtype = torch.promote_types(levels[0].dtype, torch.float32)  # a size of 1333 is no bfloat16
    rows, columns = (~mask[:, :, 0]).sum(-1), (~mask[:, 0]).sum(-1)
    return FeaturePyramid(
        maps=tuple(levels),
        masks=tuple(nearest_mask(mask, level.shape[-2], level.shape[-1]) for level in levels),
        image_sizes=torch.stack([columns, rows], dim=-1).to(dtype),
    )


def nearest_mask(mask: Tensor, height: int, width: int) -> Tensor:
    """Nearest-neighbour resize of a mask: bool [B, H, W] -> [B, height, width], source index floor(i * H / h)."""
    rows = torch.arange(height, device=mask.device) * mask.shape[1] // height
    columns = torch.arange(width, device=mask.device) * mask.shape[2] // width
    return mask[:, rows][:, :, columns]
