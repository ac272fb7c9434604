"""FFNDet R50, the baseline of DEQDet's code: six layers, 100 queries, 12 epochs on COCO."""

from crossstage.projects.deqdet.checkpoint import mmdet_deqdet_names

from crossstage.config import LazyCall as L
from crossstage.config import get_config

from .models.ffndet_r50 import model

dataloader = get_config("common/recipes/deqdet.py").dataloader
optimizer = get_config("common/recipes/deqdet.py").optimizer
lr_multiplier = get_config("common/recipes/deqdet.py").lr_multiplier_12ep
train = get_config("common/recipes/deqdet.py").train

dataloader.train.transform = get_config("common/recipes/deqdet.py").flip_only
train.output_dir = "./output/ffndet_r50_12ep"
train.checkpoint_names = L(mmdet_deqdet_names)(shared_weights=False)  # mmdetection's weights load too
