"""Inputs of deformable sampling, models and batches, at full size or tiny."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.gpu.record import Check
from crossstage.config import LazyConfig, instantiate
from crossstage.structures import ImageBatch, Levels, Target

Shapes = tuple[tuple[int, int], ...]

COCO: Shapes = ((100, 134), (50, 67), (25, 34), (13, 17))  # 17 821 tokens
PYRAMID: Shapes = ((200, 336), (100, 168), (50, 84), (25, 42))
TINY_COCO: Shapes = ((4, 5), (2, 3), (1, 2), (1, 1))  # Triton's interpreter takes 0.1 s per program
TINY_PYRAMID: Shapes = ((8, 9), (4, 5), (2, 3), (1, 1))

MODELS = {
    "dino": "dino/configs/models/dino_r50.py",
    "deformable": "deformable_detr/configs/models/deformable_detr_r50_two_stage.py",
    "stage_interactor": "stage_interactor/configs/models/stage_interactor_r50.py",
    "adamixer": "adamixer/configs/models/adamixer_r50.py",
}


@dataclass(frozen=True)
class Scene:
    """What one call of deformable sampling reads.

    Attributes:
        values: [B, M, H, D].
        levels: sizes of the L levels.
        locations: [B, N, H, L, P, 2] in [0, 1].
        weights: [B, N, H, L, P].
    """

    values: Tensor
    levels: Levels
    locations: Tensor
    weights: Tensor

    @property
    def leaves(self) -> list[Tensor]:
        """The tensors that get gradients; they do from now on."""
        return [tensor.requires_grad_() for tensor in (self.values, self.locations, self.weights)]


def coco_shapes(check: Check) -> Shapes:
    """Four levels of an image of COCO's average size."""
    return TINY_COCO if check.tiny else COCO


def decoder_queries(check: Check) -> int:
    """DINO's queries with denoising."""
    return 16 if check.tiny else 1100


def levels_of(check: Check, shapes: Shapes, dtype: torch.dtype = torch.float32) -> Levels:
    """Levels on the device."""
    return Levels.of(shapes, like=torch.zeros(1, dtype=dtype, device=check.device))


def sampling_scene(
    check: Check,
    queries: int | None,
    *,
    shapes: Shapes | None = None,
    batch: int = 2,
    spread: str = "trained",
    dtype: torch.dtype = torch.float32,
) -> Scene:
    """A scene of 8 heads of 32 channels with 4 points.

    Args:
        check: the run.
        queries: anywhere in the image; None: one per token, as in an encoder.
        shapes: of the levels, COCO's by default.
        batch: images.
        spread: of the points: "trained" (around the query), "init" (rays, on pixel centres) or "uniform".
        dtype: of the values.
    """
    torch.manual_seed(0)
    heads, points, width, device = 2 if check.tiny else 8, 4, 32, check.device
    shapes = shapes or coco_shapes(check)
    levels = levels_of(check, shapes)
    values = torch.randn(batch, sum(levels.tokens), heads, width, device=device).to(dtype)
    if queries is None:
        queries = sum(levels.tokens)
        centres = torch.cat([_pixel_centres(*shape) for shape in shapes]).to(device)[None, :, None, None, None]
    else:
        centres = torch.rand(batch, queries, 1, 1, 1, 2, device=device)
    shape = (batch, queries, heads, len(shapes), points, 2)
    if spread == "uniform":
        locations = torch.rand(shape, device=device)
    elif spread == "init":
        angle = torch.arange(heads, device=device) * (2 * torch.pi / heads)
        ray = torch.stack([angle.cos(), angle.sin()], -1)
        steps = torch.arange(1, points + 1, device=device)[:, None]
        ray = (ray / ray.abs().amax(-1, keepdim=True))[:, None, None] * steps
        locations = (centres + ray / levels.sizes[:, None]).expand(shape).contiguous()
    else:
        locations = (centres + 2.0 * torch.randn(shape, device=device) / levels.sizes[:, None]).contiguous()
    weights = torch.rand(*shape[:3], len(shapes) * points, device=device).softmax(-1).view(shape[:-1])
    return Scene(values, levels, locations, weights)


def _pixel_centres(rows: int, columns: int) -> Tensor:
    """(x, y) of each cell in [0, 1], [rows * columns, 2]."""
    grid = torch.meshgrid((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij")
    return torch.stack(grid[::-1], -1).view(-1, 2)


def build_model(check: Check, name: str) -> nn.Module:
    """A detector of `MODELS` in training, with random weights."""
    node = LazyConfig.load(check.project / "projects" / MODELS[name]).model
    node.backbone.pretrained = False
    if check.tiny:
        from tests.tiny_models import tiny

        node = tiny(node)
    torch.manual_seed(0)
    return instantiate(node).to(check.device).train()


def batch_of(check: Check, objects: int = 7) -> ImageBatch:
    """Two noise images of 800 x 1344 with objects."""
    size = (64, 96) if check.tiny else (800, 1344)
    torch.manual_seed(1)
    classes = 8 if check.tiny else 80
    targets = []
    for _ in range(2):
        labels = torch.randint(0, classes, (objects,))
        boxes = torch.cat([torch.rand(objects, 2) * 0.6 + 0.2, torch.rand(objects, 2) * 0.3 + 0.05], -1)
        targets.append(Target(labels, boxes))
    return ImageBatch(
        pixels=torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8),
        mask=torch.zeros(2, *size, dtype=torch.bool),
        sizes=(size,) * 2,
        original_sizes=(size,) * 2,
        image_ids=(0, 1),
        targets=tuple(targets),
    ).to(check.device)
