"""Any timm network as a backbone: normalised pixels in, feature maps by stride out."""

from collections.abc import Sequence

import timm
import torch
from timm.layers import freeze_batch_norm_2d
from torch import Tensor, nn

from detrkit.errors import InputError

_STAGE_NAMES = ("layer", "stages", "blocks")  # timm's names for what follows the stem


class TimmBackbone(nn.Module):
    """Feature maps of a timm model (`timm.list_models()`), finest first.

    strides: which maps to return, by their reduction.  frozen_norm: batch norms as constants (FrozenBN), as COCO
    recipes of two images a GPU need.  frozen_stages: 0 trains all, 1 freezes the stem, 2 also the first stage, ...
    (detectron2's freeze_at).  options: further keywords for `timm.create_model`.
    Raises InputError for an unknown model or a stride that it does not have.
    """

    def __init__(
        self,
        name: str = "resnet50",
        *,
        strides: Sequence[int] = (8, 16, 32),
        pretrained: bool = True,
        frozen_norm: bool = True,
        frozen_stages: int = 1,
        pixel_mean: Sequence[float] = (123.675, 116.28, 103.53),
        pixel_std: Sequence[float] = (58.395, 57.12, 57.375),
        options: dict | None = None,
    ) -> None:
        super().__init__()
        self.body = _features_only(name, strides, pretrained, dict(options or {}))
        self.strides = tuple(self.body.feature_info.reduction())
        self.channels = tuple(self.body.feature_info.channels())
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(1, 3, 1, 1), persistent=False)
        if frozen_norm:
            self.body = freeze_batch_norm_2d(self.body)
        freeze_stages(self.body, frozen_stages)

    def forward(self, pixels: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """pixels: uint8 or float [B, 3, H, W], 0 to 255.  mask: bool [B, H, W], True = padding (becomes mean colour).

        Returns one [B, C, h, w] per stride, finest first.
        """
        normalised = (pixels.to(self.pixel_mean.dtype) - self.pixel_mean) / self.pixel_std
        return tuple(self.body(normalised.masked_fill(mask[:, None], 0)))


def _features_only(name: str, strides: Sequence[int], pretrained: bool, options: dict) -> nn.Module:
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('.')[0][:6]}*")[:8]
        raise InputError(f"backbone.name={name!r}: timm has no such model; near names: {', '.join(near) or 'none'}")
    with torch.device("meta"):
        known = timm.create_model(name, features_only=True, pretrained=False, **options).feature_info.reduction()
    missing = [stride for stride in strides if stride not in known]
    if missing:
        raise InputError(f"backbone.strides={list(strides)}: {name} has no map of stride {missing[0]}; it has {known}")
    indices = tuple(known.index(stride) for stride in sorted(strides))
    return timm.create_model(name, features_only=True, out_indices=indices, pretrained=pretrained, **options)


def freeze_stages(body: nn.Module, count: int) -> None:
    """Stop the gradients of the first `count` stages of a timm feature network: the stem, then each stage.

    Raises InputError where the network's stages cannot be told apart by its children's names.
    """
    stage = 0
    for name, child in body.named_children():
        stage += name.startswith(_STAGE_NAMES)
        if stage < count:
            child.requires_grad_(False)
    if count > 0 and stage == 0:
        raise InputError(f"backbone.frozen_stages={count}: found no stages in {type(body).__name__}; use 0")
