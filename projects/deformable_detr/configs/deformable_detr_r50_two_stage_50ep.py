"""Two-stage Deformable-DETR R50, 50 epochs on COCO: detrex's recipe (48.2 AP there)."""

from .deformable_detr_r50_50ep import dataloader, lr_multiplier, optimizer, train
from .models.deformable_detr_r50_two_stage import model

train.checkpoint_names.two_stage = True
train.output_dir = "./output/deformable_detr_r50_two_stage_50ep"
