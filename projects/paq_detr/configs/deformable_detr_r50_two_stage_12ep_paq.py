"""PaQ-Deformable-DETR R50, two-stage, 12 epochs (48.4 AP in the paper, over a stronger baseline)."""

from crossstage.projects.deformable_detr.configs.deformable_detr_r50_two_stage_12ep import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
)
from crossstage.projects.paq_detr.config import with_paq

model = with_paq(model)
train.output_dir = "./output/deformable_detr_r50_two_stage_12ep_paq"
