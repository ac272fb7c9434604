"""PaQ-H-Deformable-DETR R50, two-stage, 12 epochs; the branch's 1500 queries mix the same patterns."""

from crossstage.projects.h_detr.configs.h_detr_r50_two_stage_12ep import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
)
from crossstage.projects.paq_detr.config import with_paq

model = with_paq(model)
train.output_dir = "./output/h_detr_r50_two_stage_12ep_paq"
