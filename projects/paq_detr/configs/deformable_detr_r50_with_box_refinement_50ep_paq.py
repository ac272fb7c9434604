"""PaQ-Deformable-DETR R50 from learned positions, 50 epochs: one-stage, of which the paper has no row."""

from crossstage.projects.deformable_detr.configs.deformable_detr_r50_with_box_refinement_50ep import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
)
from crossstage.projects.paq_detr.config import with_paq

model = with_paq(model)
train.output_dir = "./output/deformable_detr_r50_with_box_refinement_50ep_paq"
