"""AdaMixer, StageInteractor and DEQDet as the benchmarks take them: models, batches, rows of the table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from benchmarks.measure import Comparison, Target
from benchmarks.pyramid_sampling import STRIDES
from crossstage.config import LazyConfig, instantiate
from crossstage.modeling.encoders.tokens import unpadded_memory
from crossstage.structures import ImageBatch, Levels
from crossstage.structures import Target as Objects

PROJECTS = Path(__file__).resolve().parents[1] / "projects"
BASELINE, OURS, EQUILIBRIUM = "AdaMixer", "StageInteractor", "DEQDet"
FILES = {
    BASELINE: "adamixer/configs/models/adamixer_r50.py",
    OURS: "stage_interactor/configs/models/stage_interactor_r50.py",
    EQUILIBRIUM: "deqdet/configs/models/deqdet_r50.py",
}
QUICK_SIZES = {"embed_dim": 32, "groups": 4, "rows": 8}


def model_node(name: str, *, quick: bool) -> DictConfig:
    """The detector's model node, R50 and 100 queries, without pretrained weights; `quick`: a small one."""
    node = LazyConfig.load(PROJECTS / FILES[name]).model
    node.backbone.pretrained = False
    if not quick:
        return node
    node.embed_dim, node.queries.source.num_queries = QUICK_SIZES["embed_dim"], 8
    node.backbone.update(name="resnet18", options={"channels": [8, 8, 8, 8]})
    node.neck.update(in_channels=[8, 8, 8, 8], groups=4)
    steps = (node.decoder.initial, node.decoder.refinement) if name == EQUILIBRIUM else (node.decoder,)
    for layer in (step.layer for step in steps):
        layer.mixing.num_outputs = QUICK_SIZES["rows"]
        layer.sampler.update({"num_anchors": [3, 2], "num_details": 2} if name == OURS else {"num_points": 6})
    return node


class DecoderOnPyramid(nn.Module):
    """Queries and decoder of a detector, on a pyramid of random features of one image of (height, width)."""

    def __init__(self, node: DictConfig, image: tuple[int, int]) -> None:
        super().__init__()
        self.queries, self.decoder = instantiate(node.queries), instantiate(node.decoder)
        shapes = [(image[0] // stride, image[1] // stride) for stride in STRIDES]
        tokens = torch.randn(1, sum(h * w for h, w in shapes), node.embed_dim).requires_grad_()
        sizes = torch.tensor([[float(image[1]), float(image[0])]])
        self.memory = replace(unpadded_memory(tokens, Levels.of(shapes, tokens)), image_sizes=sizes)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """tokens: [1, M, C] -> logits [S, 1, N, K] and boxes."""
        memory = replace(self.memory, tokens=tokens)
        outputs = self.decoder(self.queries(memory), memory)
        return outputs.logits, outputs.boxes


def image_batch(image: tuple[int, int], images: int = 1) -> ImageBatch:
    """Images of (height, width), each with seven objects."""
    objects = Objects(torch.zeros(7, dtype=torch.int64), torch.rand(7, 4) * 0.2 + 0.2)
    return ImageBatch(
        pixels=torch.randint(0, 256, (images, 3, *image), dtype=torch.uint8),
        mask=torch.zeros(images, *image, dtype=torch.bool),
        sizes=(image,) * images,
        original_sizes=(image,) * images,
        image_ids=tuple(range(images)),
        targets=(objects,) * images,
    )


def row(
    case: str,
    baseline: str,
    theirs: float,
    ours: float,
    *,
    target: Target | None = None,
    unit: str = "ms",
    exact: bool = False,
    benchmark: str = "stage_interactor",
) -> Comparison:
    """A row of the benchmark. exact: the two must be the same number; else nothing of the two sides is to agree."""
    return Comparison(
        benchmark=benchmark,
        case=case,
        baseline=baseline,
        theirs=theirs,
        ours=ours,
        target=target or Target(),
        difference=abs(theirs - ours) if exact else 0.0,
        tolerance=1e-9 if exact else 0.0,
        unit=unit,
    )
