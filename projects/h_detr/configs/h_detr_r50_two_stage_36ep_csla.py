"""H-Deformable-DETR R50, two-stage, 36 epochs, with cross-stage label assignment."""

from csla import with_csla

from .h_detr_r50_two_stage_36ep import dataloader, lr_multiplier, model, optimizer, train

model = with_csla(model)
train.output_dir = "./output/h_detr_r50_two_stage_36ep_csla"
