"""The small H-Deformable-DETR with cross-stage label assignment."""

from csla import with_csla

from .h_detr_toy import dataloader, lr_multiplier, model, optimizer, train

model = with_csla(model)
train.output_dir = "./output/h_detr_toy_csla"
