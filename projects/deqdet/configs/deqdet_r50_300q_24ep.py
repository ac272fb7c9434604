"""DEQDet R50, 300 queries, 64 points in the initial layer, 24 epochs."""

from crossstage.config import get_config

from .deqdet_r50_300q_12ep import dataloader, model, optimizer, train

lr_multiplier = get_config("common/recipes/deqdet.py").lr_multiplier_24ep

train.max_iter = 180000
train.output_dir = "./output/deqdet_r50_300q_24ep"
