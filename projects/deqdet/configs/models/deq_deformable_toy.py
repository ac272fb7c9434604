"""A small Deformable-DETR with DINO's query selection, whose decoder repeats one layer up to its fixed point."""

import copy

from crossstage.projects.deqdet.modeling.equilibrium import EquilibriumDecoder
from crossstage.projects.deqdet.modeling.noise import Perturbation
from crossstage.projects.deqdet.modeling.solver import FixedPointIteration
from crossstage.projects.deqdet.modeling.steps import DeformableStep
from crossstage.projects.dino.configs.models.dino_toy import model

from crossstage.config import LazyCall as L

model.queries.extra = []
del model.criterion.groups["denoising"]
_step = L(DeformableStep)(
    layer=model.decoder.layer,
    class_head=model.decoder.class_head,
    box_head=model.decoder.box_head,
    query_positions=model.decoder.query_positions,
    norm=model.decoder.norm,
)
model.decoder = L(EquilibriumDecoder)(
    initial=_step,
    refinement=copy.deepcopy(_step),
    steps=8,
    eval_steps=8,
    supervised=[1, 3, 6, 8],
    extra_supervised=2,
    gradient_steps=2,
    solver=L(FixedPointIteration)(),
    perturbation=L(Perturbation)(position_scale=6.0),  # the generated images have 192 pixels, COCO's 800
)
