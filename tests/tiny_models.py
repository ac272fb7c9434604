"""Every model of the projects, shrunk by rules on the names of values to what builds and runs in milliseconds."""

from __future__ import annotations

import copy
import re
from functools import cache
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from crossstage.config import LazyCall as L
from crossstage.config import LazyConfig, find_config, instantiate
from crossstage.config.source import files_run_once
from crossstage.modeling.detector import Detector
from crossstage.modeling.supervision.labels import OwnStageLabels
from crossstage.structures import ImageBatch, Memory, PaddedTargets, Queries

ROOT = Path(__file__).resolve().parents[1]
MOST = {  # what a value of this name is at most, wherever it stands; an interpolation follows what it points to
    "dropout": 0.0,
    "embed_dim": 16,
    "feedforward_dim": 16,
    "groups": 4,
    "class": 1.0,  # a weight, of no meaning here, and so no reason to test a model twice
    "num_classes": 8,
    "num_details": 4,
    "num_features": 8,
    "num_groups": 2,
    "num_heads": 2,
    "num_layers": 3,  # fewer would never reuse a filter
    "num_outputs": 8,
    "num_patterns": 5,
    "num_points": 4,
    "num_queries": 7,
    "extra_queries": 7,
    "num_select": 12,
    "copies": 3,
    "rank": 4,
    "width": 8,
    "temperature": 10,
}
PLUGGED = ("_patterns", "_quality", "_paq")  # how the names of such configs end
RESNET = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}
SWIN = {"embed_dim": 8, "depths": [1, 2, 1, 1], "num_heads": [1, 2, 2, 2]}


def tiny(model: DictConfig) -> DictConfig:
    """A copy of a model's node at a small size, without dropout; what it is made of and how stays as it is."""
    model = copy.deepcopy(model)
    _shrink(model)
    backbone, neck = model.backbone, model.neck
    is_swin = backbone.name.startswith("swin")
    kept = {name: value for name, value in (backbone.options or {}).items() if name == "output_stride"}
    backbone.update(
        name="swin_tiny_patch4_window7_224" if is_swin else "resnet18",
        pretrained=False,
        options={**(SWIN if is_swin else RESNET), **kept},
    )
    widths = {stride: SWIN["embed_dim"] * stride // 4 if is_swin else 8 for stride in (4, 8, 16, 32)}
    channels = [widths[stride] for stride in backbone.strides]
    neck.in_channels = channels if isinstance(neck.in_channels, ListConfig) else channels[-1]
    return model


def _shrink(node: DictConfig | ListConfig) -> None:
    for key in list(node) if isinstance(node, DictConfig) else range(len(node)):
        if OmegaConf.is_interpolation(node, key) or node[key] is None:
            continue
        if isinstance(node[key], DictConfig | ListConfig):
            _shrink(node[key])
        elif key in MOST:
            node[key] = min(node[key], MOST[key])


@cache
def models() -> dict[str, DictConfig]:
    """The tiny nodes of all configs, each kind once, by the name of the first config that has it. Copy to change.

    Of the configs that plug PaQ into a host, the small ones alone: the others add the same to hosts that are there too.
    """
    files = [path for path in config_files() if "_toy" in path.stem or not path.stem.endswith(PLUGGED)]
    with files_run_once():
        return _distinct({path.stem: tiny(LazyConfig.load(str(path)).model) for path in files})


@cache
def baselines() -> dict[str, DictConfig]:
    """`models()` without CSLA, of which prediction knows nothing."""
    return _distinct({name: without_csla(node) for name, node in models().items()})


def config_files() -> list[Path]:
    """The experiments of all projects."""
    return sorted(ROOT.glob("projects/*/configs/*.py"))


def without_csla(model: DictConfig) -> DictConfig:
    """A copy whose queries keep the labels of their own stage."""
    model = copy.deepcopy(model)
    for supervision in model.criterion.groups.values():
        supervision.labels, supervision.adjustments = L(OwnStageLabels)(), []
    return model


def plain(node: DictConfig) -> dict[str, Any]:
    """A node as plain containers, its interpolations unresolved: what two nodes are compared by."""
    return OmegaConf.to_container(node, resolve=False)


def _distinct(nodes: dict[str, DictConfig]) -> dict[str, DictConfig]:
    first = {str(plain(node)): name for name, node in reversed(nodes.items())}
    return {name: nodes[name] for name in nodes if name in first.values()}


@cache
def random_detector(name: str) -> Detector:
    """The tiny model of a config with random parameters in float64, built once: tests must leave it as it is.

    Nothing in it is switched off by a value that starts at zero.
    """
    return randomised(tiny(LazyConfig.load(find_config(name)).model))


def randomised(node: DictConfig) -> Detector:
    """Build a detector in float64 whose parameters are random, the same each time."""
    torch.manual_seed(0)
    detector = instantiate(node).double()
    for name, constant in detector.named_buffers():
        if name.endswith("weight"):  # of a frozen norm: timm starts the last one of each block at zero
            nn.init.uniform_(constant, 0.5, 1.5)
    for name, parameter in detector.named_parameters():
        reach = 0.3 if re.search(r"box_head|\.sampler\.", name) else 1.0  # boxes and points stay in the image
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=reach * parameter[0].numel() ** -0.5)
        else:
            parameter.data += 0.3 * reach * torch.randn_like(parameter)
    return detector


def decoder_inputs(
    detector: Detector, batch: ImageBatch, targets: PaddedTargets | None = None
) -> tuple[Queries, Memory]:
    """What the decoder is given for a batch."""
    given = []
    handle = detector.decoder.register_forward_pre_hook(lambda _, inputs: given.append(inputs))
    detector.predict(batch, targets)
    handle.remove()
    return given[0]
