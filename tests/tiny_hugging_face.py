"""Detectors of Hugging Face transformers at toy size with random weights, without a download; and objects for them."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from crossstage.torchvision_on_cpu import declare_missing_operators

declare_missing_operators()
import transformers  # noqa: E402 - it imports torchvision

from csla.transformers_families import DENOISING, FULL  # noqa: E402

CLASSES, LAYERS, QUERIES, GROUPS = 4, 3, 12, 13
"""Of each model: classes, decoder layers, queries; and query groups of LW-DETR and RF-DETR in training."""

RESNET = {"embedding_size": 8, "hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1]}
DECODER = {"num_labels": CLASSES, "decoder_layers": LAYERS, "num_queries": QUERIES, "decoder_ffn_dim": 16}
ATTENTION = {"encoder_ffn_dim": 16, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
DENSE = DECODER | ATTENTION | {"auxiliary_loss": True, "encoder_layers": 1, "dropout": 0.0}
WIDTHS = {"encoder_in_channels": [8, 8, 8], "encoder_hidden_dim": 16, "decoder_in_channels": [16, 16, 16]}
HYBRID = DECODER | ATTENTION | WIDTHS | {"d_model": 16, "decoder_n_points": 2, "num_denoising": 8}
GROUPED = DECODER | {"decoder_self_attention_heads": 2, "decoder_cross_attention_heads": 2, "d_model": 16}


def _resnet() -> Any:
    return transformers.ResNetConfig(**RESNET, out_features=["stage4"])


def _distributions() -> dict[str, Any]:
    """D-FINE's and DEIMv2's own sizes, and their backbone."""
    stages = {"in_channels": [8, 8, 8, 8], "mid_channels": [8, 8, 8, 8], "out_channels": [8, 8, 8, 8]}
    stages |= {"num_blocks": [1] * 4, "downsample": [False, True, True, True], "light_block": [False] * 4}
    stages |= {"kernel_size": [3] * 4, "numb_of_layers": [1] * 4}
    backbone = transformers.HGNetV2Config(
        **RESNET,
        stem_channels=[3, 8, 8],
        **{f"stage_{name}": value for name, value in stages.items()},
        out_features=["stage2", "stage3", "stage4"],
    )
    heads = {"decoder_n_points": [2, 2, 2], "lqe_hidden_dim": 8, "depth_mult": 0.34, "max_num_bins": 8}
    return {"backbone_config": backbone, **heads}


def _rt_detr(version: str) -> Any:
    backbone = transformers.RTDetrResNetConfig(**RESNET, out_features=["stage2", "stage3", "stage4"])
    return getattr(transformers, f"{version}Config")(backbone_config=backbone, **HYBRID)


def _dense(name: str, **more: Any) -> Any:
    """Deformable, conditional and DAB-DETR; before version 5 their configs otherwise name timm's backbone too."""
    config = getattr(transformers, f"{name}Config")
    words = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}
    return config(backbone_config=_resnet(), **words, **DENSE, **more)


def _vit(name: str, **more: Any) -> Any:
    config = getattr(transformers, f"{name}Config")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64, "patch_size": 16}
    return config(**sizes, mlp_ratio=1, out_indices=[1, 2], **more)


CONFIGS = {
    "DeformableDetr": lambda: _dense("DeformableDetr", d_model=32, num_feature_levels=2, with_box_refine=True),
    "ConditionalDetr": lambda: _dense("ConditionalDetr", d_model=16),
    "DabDetr": lambda: _dense("DabDetr", hidden_size=16),
    "RTDetr": lambda: _rt_detr("RTDetr"),
    "RTDetrV2": lambda: _rt_detr("RTDetrV2"),
    "DFine": lambda: transformers.DFineConfig(**HYBRID | _distributions()),
    "Deimv2": lambda: transformers.Deimv2Config(**HYBRID | _distributions()),
    "LwDetr": lambda: transformers.LwDetrConfig(
        **GROUPED, backbone_config=_vit("LwDetrViT", num_windows=4), projector_scale_factors=[1.0]
    ),
    "RfDetr": lambda: transformers.RfDetrConfig(
        **GROUPED, dropout=0.0, backbone_config=_vit("RfDetrDinov2", num_windows=2)
    ),
}
"""The config of each model, by the name of its classes in transformers."""

NAMES = tuple(name for name in CONFIGS if hasattr(transformers, f"{name}ForObjectDetection"))
"""The models that the installed version has."""


def tiny(name: str) -> nn.Module:
    """A model in training mode; the same weights at each call."""
    torch.manual_seed(0)
    return getattr(transformers, f"{name}ForObjectDetection")(CONFIGS[name]()).train()


def pixels(batch: int = 2) -> Tensor:
    """[B, 3, 64, 64]."""
    return torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def annotations(*counts: int) -> list[dict[str, Tensor]]:
    """So many objects in each image, many of them overlapping, as transformers' models take them."""
    found = []
    for count in counts:
        centres, sides = 0.35 + 0.3 * torch.rand(count, 2), 0.2 + 0.3 * torch.rand(count, 2)
        found.append({"class_labels": torch.randint(0, CLASSES, (count,)), "boxes": torch.cat([centres, sides], -1)})
    return found


@dataclass(frozen=True)
class Call:
    """What a model gives to its loss function in one step.

    Attributes:
        model: the model; its loss function is not used.
        plain: the loss function of transformers.
        arguments: the arguments by name, with the graph of the step.
    """

    model: Any
    plain: Callable[..., Any]
    arguments: dict[str, Any]

    @property
    def denoising(self) -> int:
        """Denoising queries, which come first."""
        return (self.arguments.get("denoising_meta_values") or {"dn_num_split": (0,)})["dn_num_split"][0]

    @property
    def covers_denoising(self) -> bool:
        """Whether the plain losses of the last stage cover denoising queries too; see `csla.transformers_families`."""
        old = tuple(map(int, transformers.__version__.split(".")[:2])) < FULL
        return old and self.plain.__name__ in DENOISING

    def losses(self, function: Callable[..., Any] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """The total and the terms by a loss function; None: the plain one, over the same queries in all versions."""
        arguments = dict(self.arguments)
        if function is None and self.covers_denoising:
            for name in ("logits", "pred_boxes"):
                arguments[name] = arguments[name][:, self.denoising :]
        total, terms, _ = (function or self.plain)(**arguments)
        return total, terms


def call_of(name: str, *counts: int, seed: int = 0) -> Call:
    """Run a model on images with so many objects, up to its loss function."""
    model, calls = tiny(name), []
    plain = model.loss_function

    def record(*arguments: Any, **keywords: Any) -> tuple[None, None, None]:
        calls.append(inspect.signature(plain).bind(*arguments, **keywords).arguments)
        return None, None, None

    model.loss_function = record
    torch.manual_seed(seed)
    model(pixel_values=pixels(len(counts)), labels=annotations(*counts))
    (arguments,) = calls
    extra = arguments.pop("kwargs", {})
    return Call(model, plain, {**arguments, **extra})
