"""Modulated deformable convolution (Deformable ConvNets v2, CVPR 2019).

Each tap of the kernel reads at a learned offset, and its sample is multiplied by a learned mask. Parameters and the
order of the predicted channels are those of mmdetection's DCNv2, so that its weights load: `weight`, `bias`, and
`conv_offset`, which predicts (y, x) of each tap first and then the mask logit of each tap. torchvision's compiled
operator is used if it can be loaded. Otherwise (see `crossstage/torchvision_on_cpu.py`), and in a graph that is
exported, plain PyTorch computes the same sum; this is slower and stores all samples in memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from crossstage.layers.deformable import deformable_sampling
from crossstage.layers.ops.exporting import exporting
from crossstage.structures import Levels


class ModulatedDeformConv2d(nn.Module):
    """A convolution that samples at learned offsets and weights each sample by a learned mask in (0, 1).

    `conv_offset` starts at zero, so that at first there are no offsets and every mask is 1/2. All channels share one
    set of offsets (mmdetection's deform_groups=1). The arguments are those of `nn.Conv2d`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        padding: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__()
        geometry: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
        plain = nn.Conv2d(in_channels, out_channels, kernel_size, groups=groups, bias=bias, **geometry)
        self.geometry, self.groups = geometry, groups
        self.weight, self.bias = plain.weight, plain.bias
        self.conv_offset = nn.Conv2d(in_channels, 3 * kernel_size**2, kernel_size, **geometry)
        for parameter in self.conv_offset.parameters():
            nn.init.zeros_(parameter)

    @classmethod
    def like(cls, conv: nn.Conv2d) -> ModulatedDeformConv2d:
        """Make a convolution into a deformable one that holds the same weights; the kernel must be square."""
        geometry: dict[str, Any] = {name: getattr(conv, name)[0] for name in ("stride", "padding", "dilation")}
        geometry |= {"groups": conv.groups, "bias": conv.bias is not None}
        with conv.weight.device:
            moved = cls(conv.in_channels, conv.out_channels, conv.kernel_size[0], **geometry)
        moved.weight, moved.bias = conv.weight, conv.bias
        return moved

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H', W'], in the dtype of `features`. Offsets and sums are at least float32."""
        *offsets, logits = self.conv_offset(features).chunk(3, dim=1)
        with torch.autocast(features.device.type, enabled=False):
            dtype = torch.promote_types(features.dtype, torch.float32)
            sampled = modulated_deform_conv2d(
                features.to(dtype),
                self.weight.to(dtype),
                offsets=torch.cat(offsets, dim=1).to(dtype),
                masks=logits.to(dtype).sigmoid(),
                bias=None if self.bias is None else self.bias.to(dtype),
                groups=self.groups,
                **self.geometry,
            )
        return sampled.to(features.dtype)


def modulated_deform_conv2d(
    features: Tensor,
    weight: Tensor,
    *,
    offsets: Tensor,
    masks: Tensor,
    bias: Tensor | None = None,
    groups: int = 1,
    **geometry: int,
) -> Tensor:
    """Convolve with moved and weighted taps. Samples are bilinear between pixels and zero outside the image.

    Args:
        features: [B, C, H, W].
        weight: [C', C / groups, k, k].
        offsets: [B, 2 k k, H', W'], (y, x) of each tap in pixels.
        masks: [B, k k, H', W'].
        bias: [C'] or None.
        groups: as in `nn.Conv2d`.
        geometry: stride, padding and dilation, all three.

    Returns:
        [B, C', H', W'].
    """
    if hasattr(torch.ops.torchvision, "deform_conv2d") and not exporting():
        bias = weight.new_zeros(len(weight)) if bias is None else bias
        twice = [geometry[name] for name in ("stride", "padding", "dilation") for _ in range(2)]  # vertical, horizontal
        operator = torch.ops.torchvision.deform_conv2d
        return operator(features, weight, offsets, masks, bias, *twice, groups, 1, True)  # 1: deform_groups
    columns = _columns(features, offsets, masks, kernel_size=weight.shape[-1], **geometry)  # [B, C, k k, H' W']
    columns = columns.unflatten(1, (groups, -1)).flatten(2, 3)
    filters = weight.flatten(1).unflatten(0, (groups, -1))
    output = (filters @ columns).flatten(1, 2).unflatten(-1, offsets.shape[2:])
    return output if bias is None else output + bias[:, None, None]


def _columns(
    features: Tensor, offsets: Tensor, masks: Tensor, *, kernel_size: int, stride: int, padding: int, dilation: int
) -> Tensor:
    """The sample of each tap times its mask: [B, C, k k, H' W']."""
    batch, channels, height, width = features.shape
    taps = kernel_size**2
    grids = [
        torch.arange(cells, device=features.device).mul(stride).sub(padding)
        + torch.arange(kernel_size, device=features.device).mul(dilation)[:, None]
        for cells in offsets.shape[2:]
    ]  # each [k, cells]
    rows = grids[0][:, None, :, None].expand(-1, kernel_size, -1, offsets.shape[3])
    columns = grids[1][None, :, None, :].expand(kernel_size, -1, offsets.shape[2], -1)
    fixed = torch.stack([rows, columns], dim=2).flatten(0, 1)  # [k k, 2, H', W']
    places = (fixed + offsets.unflatten(1, (taps, 2))).flip(2).permute(0, 1, 3, 4, 2)  # (x, y)
    extent = features.new_tensor([width, height])
    sampled = deformable_sampling(
        features.flatten(2).transpose(1, 2)[:, :, None],
        Levels.of([(height, width)], features),
        locations=((places + 0.5) / extent).reshape(batch, -1, 1, 1, 1, 2),
        weights=masks.reshape(batch, -1, 1, 1, 1),
    )
    return sampled.transpose(1, 2).reshape(batch, channels, taps, -1)
