"""AdaMixer and StageInteractor as the benchmarks take them: models, batches, rows of the table."""

from __future__ import annotations

from pathlib import Path

import torch
from omegaconf import DictConfig

from benchmarks.measure import Comparison, Target
from crossstage.config import LazyConfig
from crossstage.structures import ImageBatch
from crossstage.structures import Target as Objects

PROJECTS = Path(__file__).resolve().parents[1] / "projects"
BASELINE, OURS = "AdaMixer", "StageInteractor"
QUICK_SIZES = {"embed_dim": 32, "groups": 4, "rows": 8}


def model_node(name: str, *, quick: bool) -> DictConfig:
    """The detector's model node, R50 and 100 queries, without pretrained weights; `quick`: a small one."""
    file = {BASELINE: "adamixer/configs/models/adamixer_r50.py", OURS: "stage_interactor/configs/models/"}[name]
    node = LazyConfig.load(PROJECTS / (file if name == BASELINE else f"{file}stage_interactor_r50.py")).model
    node.backbone.pretrained = False
    if not quick:
        return node
    node.embed_dim, node.queries.source.num_queries = QUICK_SIZES["embed_dim"], 8
    node.backbone.update(name="resnet18", options={"channels": [8, 8, 8, 8]})
    node.neck.update(in_channels=[8, 8, 8, 8], groups=4)
    node.decoder.layer.mixing.num_outputs = QUICK_SIZES["rows"]
    if name == BASELINE:
        node.decoder.layer.sampler.num_points = 6
    else:
        node.decoder.layer.sampler.update(num_anchors=[3, 2], num_details=2)
    return node


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
) -> Comparison:
    """A row of the benchmark. exact: the two must be the same number; else nothing of the two sides is to agree."""
    return Comparison(
        benchmark="stage_interactor",
        case=case,
        baseline=baseline,
        theirs=theirs,
        ours=ours,
        target=target or Target(),
        difference=abs(theirs - ours) if exact else 0.0,
        tolerance=1e-9 if exact else 0.0,
        unit=unit,
    )
