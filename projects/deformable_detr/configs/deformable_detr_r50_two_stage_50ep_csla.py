"""Two-stage Deformable-DETR R50, 50 epochs, with cross-stage label assignment."""

from csla import with_csla

from .deformable_detr_r50_two_stage_50ep import dataloader, lr_multiplier, model, optimizer, train

model = with_csla(model)
train.output_dir = "./output/deformable_detr_r50_two_stage_50ep_csla"
