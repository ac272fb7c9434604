"""H-Deformable-DETR R50, two-stage, 36 epochs on COCO (50.3 AP with the authors' weights, in detrex)."""

from crossstage.config import get_config

from .h_detr_r50_two_stage_12ep import dataloader, model, optimizer, train

lr_multiplier = get_config("common/schedule.py").lr_multiplier_36ep

train.output_dir = "./output/h_detr_r50_two_stage_36ep"
train.max_iter = 270000
