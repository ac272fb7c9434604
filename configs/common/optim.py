"""The optimizer of DETR's relatives: AdamW, a tenth of the learning rate for the backbone, no decay on norm layers."""

import torch

from crossstage.config import LazyCall as L
from crossstage.engine.optim import parameter_groups

AdamW = L(torch.optim.AdamW)(
    # The trainer sets params.model.
    params=L(parameter_groups)(
        base_lr="${up:lr}",
        weight_decay="${up:weight_decay}",
        weight_decay_norm=0.0,
        lr_factors={"backbone": 0.1},
    ),
    lr=1e-4,
    betas=[0.9, 0.999],
    weight_decay=1e-4,
)
optimizer = AdamW
