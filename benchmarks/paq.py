"""PaQ-DINO beside DINO: parameters, FLOPs, inference, training step, memory; and the criterion by quality.

Both have a ResNet-50 with random weights and 900 queries, and see one image of 800 x 1333; FLOPs are multiply-adds, as
`crossstage.evaluation.cost` counts them. Memory as in `deqdet`: what autograd keeps for the backward pass, and of a
training step twice that (two images), parameters, gradients and the two moments of AdamW.

The criterion has 7 stages, two images, 900 queries, 80 classes and 20 objects per image. `copies` is PaQ-DETR's number
of queries per object alone, `with_quality` has its class targets and loss too.
"""

from __future__ import annotations

from functools import partial

import torch
from crossstage.projects.paq_detr.modeling.quality import QualityCopies
from crossstage.projects.paq_detr.quality_config import with_quality
from torch import nn

from benchmarks.criterion import SHAPES, criterion_step, criterion_terms, make_criterion, make_scene_of
from benchmarks.detectors import image_batch
from benchmarks.detectors import row as comparison
from benchmarks.measure import Comparison, Setting, Target, interleaved, max_difference, saved_bytes
from benchmarks.pyramid_sampling import QUICK_IMAGE
from crossstage.config import LazyConfig, find_config, get_config, instantiate
from crossstage.evaluation.cost import model_cost
from crossstage.structures import ImageBatch

IMAGE, IMAGES = (800, 1333), 2
HOST, OURS = "DINO", "PaQ-DINO"
CONFIGS = {HOST: "dino_r50_4scale_12ep", OURS: "dino_r50_4scale_12ep_paq"}
QUICK_CONFIGS = {HOST: "dino_toy", OURS: "dino_toy_paq"}
MB = 2**20

row = partial(comparison, benchmark="paq", baseline=HOST)


def run(setting: Setting) -> list[Comparison]:
    """Rows for the whole detector, then for the criterion."""
    return [*_detector_rows(setting), *_criterion_rows(setting)]


def _detector_rows(setting: Setting) -> list[Comparison]:
    batch = image_batch(QUICK_IMAGE if setting.quick else IMAGE)
    models = {name: _detector(config) for name, config in (QUICK_CONFIGS if setting.quick else CONFIGS).items()}
    sizes = {name: float(sum(parameter.numel() for parameter in model.parameters())) for name, model in models.items()}
    flops = {name: model_cost(model, batch)[-1].multiply_adds / 1e9 for name, model in models.items()}
    with torch.no_grad():
        predictions = {name: partial(model.eval(), batch) for name, model in models.items()}
        inference = interleaved(predictions, setting.rounds)
    losses = {name: partial(_loss, model.train(), batch) for name, model in models.items()}
    kept = {name: saved_bytes(loss, *models[name].parameters()) / MB for name, loss in losses.items()}
    training = interleaved({name: partial(_step, models[name], batch) for name in models}, setting.rounds)
    total = {name: IMAGES * kept[name] + 4 * 4 * sizes[name] / MB for name in models}  # four numbers of 4 bytes each
    return [
        row("parameters", theirs=sizes[HOST] / 1e6, ours=sizes[OURS] / 1e6, unit="M"),
        row("FLOPs", theirs=flops[HOST], ours=flops[OURS], unit="G"),
        row("inference", theirs=inference[HOST], ours=inference[OURS]),
        row("training step", theirs=training[HOST], ours=training[OURS]),
        row("kept for the backward pass", theirs=kept[HOST], ours=kept[OURS], unit="MB"),
        row("memory of a training step", theirs=total[HOST], ours=total[OURS], unit="MB"),
    ]


def _detector(config: str) -> nn.Module:
    node = LazyConfig.load(find_config(config)).model
    node.backbone.pretrained = False
    return instantiate(node)


def _loss(model: nn.Module, batch: ImageBatch) -> torch.Tensor:
    return model(batch).total


def _step(model: nn.Module, batch: ImageBatch) -> None:
    model.zero_grad(set_to_none=True)
    _loss(model, batch).backward()


def _criterion_rows(setting: Setting) -> list[Comparison]:
    """Of the box losses, those of the plain last stage must agree."""
    scene = make_scene_of(SHAPES[0][0], setting)
    plain, copies = (make_criterion(cross_stage=False) for _ in range(2))
    copies.groups["matching"].matcher.copies = QualityCopies()
    whole = instantiate(with_quality(get_config("common/models/supervision.py")).criterion)
    criteria = {"plain": plain, "copies": copies, "with_quality": whole}
    sides = {name: partial(criterion_terms, criterion, scene) for name, criterion in criteria.items()}
    last = {name: torch.stack([side()[loss] for loss in ("loss_bbox", "loss_giou")]) for name, side in sides.items()}
    times = interleaved({name: criterion_step(side, scene) for name, side in sides.items()}, setting.rounds)
    return [
        Comparison(
            benchmark="paq",
            case=f"criterion, forward + backward, {name}, {scene.shape}",
            baseline="one-to-one",
            theirs=times["plain"],
            ours=times[name],
            target=Target(at_most=1.15),
            difference=max_difference(last["plain"], last[name]),
            tolerance=0.0,
        )
        for name in ("copies", "with_quality")
    ]
