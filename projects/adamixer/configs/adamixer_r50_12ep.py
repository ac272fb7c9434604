"""AdaMixer R50, 100 queries, 12 epochs on COCO, flipped images only."""

from crossstage.projects.adamixer.checkpoint import mmdet_adamixer_names

from crossstage.config import LazyCall as L
from crossstage.config import get_config

from .models.adamixer_r50 import model

dataloader = get_config("common/recipes/mixer.py").dataloader
optimizer = get_config("common/recipes/mixer.py").optimizer
lr_multiplier = get_config("common/recipes/mixer.py").lr_multiplier_12ep
train = get_config("common/recipes/mixer.py").train

dataloader.train.transform = get_config("common/recipes/mixer.py").flip_only
train.output_dir = "./output/adamixer_r50_12ep"
train.checkpoint_names = L(mmdet_adamixer_names)()  # mmdetection's weights load too
