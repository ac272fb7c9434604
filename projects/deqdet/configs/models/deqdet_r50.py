"""DEQDet (Wang et al., ICCV 2023) with a ResNet-50, 100 queries and 32 points: two layers of AdaMixer, one repeated."""

import copy

from crossstage.projects.adamixer.configs.models.adamixer_r50 import model
from crossstage.projects.deqdet.modeling.equilibrium import EquilibriumDecoder
from crossstage.projects.deqdet.modeling.noise import Perturbation
from crossstage.projects.deqdet.modeling.solver import FixedPointIteration
from crossstage.projects.deqdet.modeling.steps import MixerStep

from crossstage.config import LazyCall as L
from crossstage.layers.position_vector import IsotropicMoves

_step = L(MixerStep)(
    layer=model.decoder.layer,
    class_head=model.decoder.class_head,
    box_head=model.decoder.box_head,
    moves=L(IsotropicMoves)(),
    least_side=1e-7,
)
model.decoder = L(EquilibriumDecoder)(
    initial=_step,
    refinement=copy.deepcopy(_step),
    steps=20,
    eval_steps=24,  # the paper's T_infer = 25 counts the initial step
    supervised=[1, 3, 6, 9, 12, 20],
    extra_supervised=2,
    gradient_steps=2,
    solver=L(FixedPointIteration)(),
    perturbation=L(Perturbation)(),
)
