"""Any timm network as a backbone: it normalises the pixels and returns feature maps at the chosen strides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import timm
import torch
from timm.layers import freeze_batch_norm_2d
from torch import Tensor, nn
from torch.nn.functional import batch_norm, pad
from torchvision.ops.misc import FrozenBatchNorm2d

from crossstage.errors import InputError
from crossstage.layers.deform_conv import ModulatedDeformConv2d
from crossstage.modeling.pretrained import quick_if_offline

PIXEL_MEAN, PIXEL_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of ImageNet, RGB
_STAGE_NAMES = ("layer", "stages", "blocks")  # timm's names for what follows the stem
_SWIN_NAMES = ("swin_", "swinv2_tiny", "swinv2_small", "swinv2_base", "swinv2_large")
_M = TypeVar("_M", bound=nn.Module)
# By default timm fits Swin's windows, shifts and mask to the image size of pretraining. With these options the windows
# keep their size on images of any size.
_SWIN_OPTIONS = {"strict_img_size": False, "always_partition": True}


class TimmBackbone(nn.Module):
    """Feature maps of a timm model (`timm.list_models()`), finest first. A Swin accepts images of any size.

    Args:
        name: name of the timm model.
        strides: the maps to return, by their reduction of the image size.
        pretrained: whether to load timm's pretrained weights.
        frozen_norm: whether batch norms are constants (FrozenBN). COCO recipes with two images per GPU need this.
        frozen_stages: 0 trains everything, 1 freezes the stem, 2 also the first stage, ... (detectron2's freeze_at).
        output_norm: whether to add a trained LayerNorm over the channels of each map. Detectors use it with Swin,
            whose stages end without a norm.
        edits: functions that change the timm model, applied in order before anything is frozen (`FixedStatistics`,
            `DeformableStages`).
        options: further keywords for `timm.create_model`.

    Raises:
        InputError: if timm has no such model, the model has no map of a stride, or its pretrained weights cannot be
            downloaded.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        name: str = "resnet50",
        *,
        strides: Sequence[int] = (8, 16, 32),
        pretrained: bool = True,
        frozen_norm: bool = True,
        frozen_stages: int = 1,
        output_norm: bool = False,
        edits: Sequence[Callable[[nn.Module], nn.Module]] = (),
        options: dict | None = None,
    ) -> None:
        super().__init__()
        self.body = _features_only(name, strides, pretrained, _plain(options or {}))
        maps: Any = self.body.feature_info
        self.strides, self.channels = tuple(maps.reduction()), tuple(maps.channels())
        self.channels_last = self.body.output_fmt == "NHWC"
        self.patch_size = _patch_size(self.body)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in self.channels) if output_norm else None
        self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(PIXEL_STD).view(1, 3, 1, 1), persistent=False)
        for edit in edits:
            self.body = edit(self.body)
        if frozen_norm:
            if not pretrained:
                _open_residual_branches(self.body)
            self.body = _replaced(freeze_batch_norm_2d(self.body), FrozenBatchNorm2d, OneKernelNorm2d.like)
        freeze_stages(self.body, frozen_stages)

    def forward(self, pixels: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps.

        Args:
            pixels: uint8 or float [B, 3, H, W], 0 to 255, RGB.
            mask: bool [B, H, W], True = padding; such pixels get the mean colour.

        Returns:
            One [B, C, h, w] per stride, finest first.
        """
        normalised = (pixels.to(self.pixel_mean.dtype) - self.pixel_mean) / self.pixel_std
        normalised = normalised.masked_fill(mask[:, None], 0)
        rows, columns = (-size % patch for size, patch in zip(mask.shape[1:], self.patch_size, strict=True))
        if rows or columns:
            normalised = pad(normalised, (0, columns, 0, rows))
        maps = [level.permute(0, 3, 1, 2) if self.channels_last else level for level in self.body(normalised)]
        if self.norms is not None:  # LayerNorm expects the channels on the last axis
            maps = [norm(level.movedim(1, -1)).movedim(-1, 1) for norm, level in zip(self.norms, maps, strict=True)]
        return tuple(maps)


def _plain(options: Mapping) -> dict:
    """The options with lists turned into tuples. timm passes some to torch, which does not accept a ListConfig."""
    return {
        key: tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
        for key, value in options.items()
    }


def _patch_size(body: nn.Module) -> tuple[int, int]:
    """The numbers of which height and width must be multiples; (1, 1) for a network that accepts any size."""
    return tuple(getattr(getattr(body, "patch_embed", None), "patch_size", (1, 1)))


def _features_only(name: str, strides: Sequence[int], pretrained: bool, options: dict) -> nn.Module:
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('.')[0][:6]}*")[:8]
        raise InputError(f"backbone.name={name!r}: timm has no such model; near names: {', '.join(near) or 'none'}")
    if name.startswith(_SWIN_NAMES):
        options = {**_SWIN_OPTIONS, **options}
    with torch.device("meta"):
        described: Any = timm.create_model(name, features_only=True, pretrained=False, **options)
    known = described.feature_info.reduction()
    missing = [stride for stride in strides if stride not in known]
    if missing:
        raise InputError(f"backbone.strides={list(strides)}: {name} has no map of stride {missing[0]}; it has {known}")
    # Several maps may have one stride: a dilated last stage (output_stride=16) keeps that of the stage before. The
    # deepest map is taken.
    indices = tuple(max(i for i, reduction in enumerate(known) if reduction == stride) for stride in sorted(strides))
    if not pretrained:
        return timm.create_model(name, features_only=True, out_indices=indices, pretrained=False, **options)
    with quick_if_offline(described.pretrained_cfg) as silent:
        try:
            return timm.create_model(name, features_only=True, out_indices=indices, pretrained=True, **options)
        except OSError as error:  # no internet, and nothing in the caches
            reason = " ".join((silent or str(error)).split())[:160]
            raise InputError(
                f"backbone.name={name!r}: its pretrained weights cannot be downloaded ({reason}); run once with "
                "internet, start from a checkpoint (train.init_checkpoint=FILE), or train from scratch "
                "(model.backbone.pretrained=False)"
            ) from error


def _open_residual_branches(body: nn.Module) -> None:
    """Set all batch norm scales to 1.

    timm initialises the last norm of each residual branch with 0. If that were frozen, the branch would never learn.
    """
    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)


class FixedStatistics:
    """An edit that fixes the statistics of all batch norms; scale and shift are still trained (mmdet's norm_eval).

    The call raises InputError if the network has no `nn.BatchNorm2d`.
    """

    def __call__(self, body: nn.Module) -> nn.Module:
        if not any(type(module) is nn.BatchNorm2d for module in body.modules()):
            raise InputError(f"FixedStatistics: {type(body).__name__} has no nn.BatchNorm2d; leave the edit out")
        return _replaced(body, nn.BatchNorm2d, FixedBatchNorm2d.like)


def _replaced(body: nn.Module, kind: type[_M], replacement: Callable[[_M], nn.Module]) -> nn.Module:
    """Replace all modules inside `body` that are of this class, and not of a derived one."""
    for parent in list(body.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is kind:
                setattr(parent, name, replacement(child))
    return body


class OneKernelNorm2d(FrozenBatchNorm2d):
    """torchvision's frozen batch norm, which timm uses, as one call of torch's, with the same values.

    torchvision multiplies and adds in the dtype of its float32 buffers. Under autocast this turns bfloat16 features
    back into float32, with twice the memory, for the whole backbone; `batch_norm` keeps their dtype.
    """

    @classmethod
    def like(cls, norm: FrozenBatchNorm2d) -> OneKernelNorm2d:
        """Make such a norm that holds the constants of `norm`."""
        with norm.weight.device:
            own = cls(len(norm.weight), eps=norm.eps)
        own.load_state_dict(norm.state_dict(), assign=True)
        return own

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W], in the dtype of the features."""
        return batch_norm(features, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


class FixedBatchNorm2d(nn.BatchNorm2d):
    """A batch norm that is always in evaluation mode."""

    @classmethod
    def like(cls, norm: nn.BatchNorm2d) -> FixedBatchNorm2d:
        """Make a fixed norm that holds the parameters and statistics of `norm`."""
        with norm.weight.device:
            fixed = cls(norm.num_features, eps=norm.eps)
        fixed.load_state_dict(norm.state_dict(), assign=True)
        return fixed.eval()

    def train(self, mode: bool = True) -> FixedBatchNorm2d:
        """Stay in evaluation mode, whatever `mode` is."""
        return super().train(False)


class DeformableStages:
    """An edit that replaces the 3x3 convolutions of some stages by modulated deformable ones (mmdet's DCN in c3-c5).

    The existing parameters keep their names. The call raises InputError if a stage has no 3x3 convolution.

    Args:
        stages: numbers of the stages; 1 is the first stage after the stem.
    """

    def __init__(self, stages: Sequence[int] = (2, 3, 4)) -> None:
        self.stages = tuple(stages)

    def __call__(self, body: nn.Module) -> nn.Module:
        found = [child for name, child in body.named_children() if name.startswith(_STAGE_NAMES)]
        for stage in self.stages:
            parents = list(found[stage - 1].modules()) if 1 <= stage <= len(found) else []
            convolutions = [
                (parent, name, child)
                for parent in parents
                for name, child in parent.named_children()
                if isinstance(child, nn.Conv2d) and child.kernel_size == (3, 3)
            ]
            if not convolutions:
                raise InputError(
                    f"DeformableStages stages={list(self.stages)}: stage {stage} of {type(body).__name__} has no 3x3 "
                    f"convolution; it has {len(found)} stages"
                )
            for parent, name, convolution in convolutions:
                setattr(parent, name, ModulatedDeformConv2d.like(convolution))
        return body


def freeze_stages(body: nn.Module, count: int) -> None:
    """Stop the gradients of the first parts of a timm feature network.

    Args:
        body: the network.
        count: 0 freezes nothing, 1 the stem, 2 also the first stage, and so on.

    Raises:
        InputError: if the stages cannot be recognised by the names of the network's children.
    """
    stage = 0
    for name, child in body.named_children():
        stage += name.startswith(_STAGE_NAMES)
        if stage < count:
            child.requires_grad_(False)
    if count > 0 and stage == 0:
        raise InputError(f"backbone.frozen_stages={count}: found no stages in {type(body).__name__}; use 0")
