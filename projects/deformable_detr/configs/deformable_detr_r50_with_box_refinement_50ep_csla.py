"""Deformable-DETR R50 with box refinement, 50 epochs, with cross-stage label assignment."""

from csla import with_csla

from .deformable_detr_r50_with_box_refinement_50ep import dataloader, lr_multiplier, model, optimizer, train

model = with_csla(model)
train.output_dir = "./output/deformable_detr_r50_with_box_refinement_50ep_csla"
