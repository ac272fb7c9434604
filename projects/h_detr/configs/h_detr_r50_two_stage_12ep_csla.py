"""H-Deformable-DETR R50, two-stage, 12 epochs, with cross-stage label assignment (StageInteractor, Table 4)."""

from csla import with_csla

from .h_detr_r50_two_stage_12ep import dataloader, lr_multiplier, model, optimizer, train

model = with_csla(model)
train.output_dir = "./output/h_detr_r50_two_stage_12ep_csla"
