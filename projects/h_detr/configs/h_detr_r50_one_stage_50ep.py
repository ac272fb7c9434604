"""H-Deformable-DETR R50 from learned queries, 50 epochs on COCO; detrex's config of this kind does not run."""

from crossstage.config import get_config

from .h_detr_r50_two_stage_12ep import dataloader, optimizer, train
from .models.h_detr_r50_one_stage import model

lr_multiplier = get_config("common/schedule.py").lr_multiplier_50ep

train.checkpoint_names.two_stage = False
train.output_dir = "./output/h_detr_r50_one_stage_50ep"
train.max_iter = 375000
