"""DINO R50, 4 scales, 36 epochs on COCO: the 12-epoch recipe, three times as long."""

from crossstage.config import get_config

from .dino_r50_4scale_12ep import dataloader, model, optimizer, train

lr_multiplier = get_config("common/schedule.py").lr_multiplier_36ep

train.output_dir = "./output/dino_r50_4scale_36ep"
train.max_iter = 270000
