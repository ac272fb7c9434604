"""H-Deformable-DETR R50 from learned queries, 50 epochs, with cross-stage label assignment."""

from csla import with_csla

from .h_detr_r50_one_stage_50ep import dataloader, lr_multiplier, model, optimizer, train

model = with_csla(model)
train.output_dir = "./output/h_detr_r50_one_stage_50ep_csla"
