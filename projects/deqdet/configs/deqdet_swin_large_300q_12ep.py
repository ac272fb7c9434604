"""DEQDet with a Swin-L of ImageNet-22k, 300 queries, 12 epochs."""

from crossstage.config import get_config

from .deqdet_swin_large_300q_24ep import dataloader, model, optimizer, train

lr_multiplier = get_config("common/recipes/deqdet.py").lr_multiplier_12ep

train.max_iter = 90000
train.output_dir = "./output/deqdet_swin_large_300q_12ep"
