"""Random objects, predictions, batches and a tiny detector, for the tests of whatever works on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from crossstage.config import LazyConfig, instantiate
from crossstage.modeling.detector import Detector
from crossstage.structures import ImageBatch, StageOutputs, Target

MODELS = Path(__file__).resolve().parents[1] / "projects/dino/configs/models"


def boxes_inside(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normalised cxcywh boxes [*shape, 4] that lie in the image."""
    size = torch.rand(*shape, 2, dtype=dtype) * 0.5 + 0.05
    return torch.cat([torch.rand(*shape, 2, dtype=dtype) * (1 - size) + size / 2, size], dim=-1)


def objects_of(*counts: int, classes: int = 8, dtype: torch.dtype = torch.float32) -> tuple[Target, ...]:
    """One Target an image with so many objects."""
    return tuple(Target(torch.randint(0, classes, (n,)), boxes_inside(n, dtype=dtype)) for n in counts)


def predictions(
    stages: int, batch: int, queries: int, *, classes: int = 8, dtype: torch.dtype = torch.float32
) -> StageOutputs:
    """Random logits and boxes, both leaves that take gradients."""
    logits = torch.randn(stages, batch, queries, classes, dtype=dtype)
    return StageOutputs(logits.requires_grad_(), boxes_inside(stages, batch, queries, dtype=dtype).requires_grad_())


def image_batch(
    *counts: int, sizes: tuple[tuple[int, int], ...] | None = None, padded: tuple[int, int] | None = None
) -> ImageBatch:
    """Random images with so many objects each. sizes: (height, width) of each, 64x96 by default; padded: all."""
    sizes = sizes or ((64, 96),) * len(counts)
    height, width = padded or (max(h for h, _ in sizes), max(w for _, w in sizes))
    mask = torch.ones(len(counts), height, width, dtype=torch.bool)
    for image, (h, w) in enumerate(sizes):
        mask[image, :h, :w] = False
    pixels = torch.randint(0, 256, (len(counts), 3, height, width), dtype=torch.uint8) * ~mask[:, None]
    return ImageBatch(pixels, mask, sizes, sizes, tuple(range(len(counts))), objects_of(*counts))


def alone(batch: ImageBatch, image: int) -> ImageBatch:
    """One image of a batch without its padding, as a batch of its own."""
    height, width = batch.sizes[image]
    one = slice(image, image + 1)
    return ImageBatch(
        pixels=batch.pixels[one, :, :height, :width],
        mask=batch.mask[one, :height, :width],
        sizes=batch.sizes[one],
        original_sizes=batch.original_sizes[one],
        image_ids=batch.image_ids[one],
        targets=None if batch.targets is None else batch.targets[one],
    )


def tiny_dino_node() -> DictConfig:
    """The node of the quickstart's DINO at a tenth of its width: 12 queries, 2 stages, 8 classes, 3 levels."""
    node = LazyConfig.load(str(MODELS / "dino_toy.py")).model
    node.embed_dim = 32
    node.backbone.update(options={"channels": [8, 16, 16, 16]})
    node.neck.update(in_channels=[16, 16, 16], num_levels=3)
    node.encoder.num_layers = 1
    node.encoder.position.num_features = 16
    node.decoder.num_layers = 2
    node.encoder.layer.ffn.feedforward_dim = node.decoder.layer.ffn.feedforward_dim = 32
    node.queries.source.num_queries = 12
    node.queries.extra[0].num_queries = 6
    node.postprocess.num_select = 12
    return node


def tiny_dino(**parts: Any) -> Detector:
    """A tiny DINO whose parameters are all random: none waits for a zero-initialised one to learn first."""
    detector = instantiate({**tiny_dino_node(), **parts})
    for parameter in detector.parameters():
        nn.init.normal_(parameter, std=0.1)
    return detector


class LocalBackbone(nn.Module):
    """Stands in for a backbone whose features see nothing of the padding: mean colours of the cells, by stride."""

    def __init__(self, strides: Sequence[int] = (8, 16, 32)) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.register_buffer("middle", torch.tensor(127.5))

    def forward(self, pixels: Tensor, mask: Tensor) -> list[Tensor]:
        shade = (pixels.to(self.middle.dtype) / self.middle - 1).masked_fill(mask[:, None], 0)
        return [nn.functional.avg_pool2d(shade, stride) for stride in self.strides]


class NoPositions(nn.Module):
    """Stands in for query positions, which DINO makes from boxes in padded coordinates."""

    def forward(self, references: Tensor) -> Tensor:
        return references.new_zeros(*references.shape[:2], 32)


def local_dino() -> Detector:
    """A tiny DINO whose parts see nothing of the padding: no GroupNorm, one convolution a level, no positions."""
    node = tiny_dino_node()
    node.neck.update(in_channels=[3, 3, 3], groups=None)
    node.decoder.pop("query_positions")
    detector = instantiate({**node, "backbone": LocalBackbone()})
    detector.decoder.query_positions = NoPositions()
    for parameter in detector.parameters():
        nn.init.normal_(parameter, std=0.3)
    return detector
