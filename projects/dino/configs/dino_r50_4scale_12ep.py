"""DINO R50, 4 scales, 12 epochs on COCO: detrex's recipe (49.2 AP there)."""

from crossstage.projects.dino.checkpoint import detrex_dino_names

from crossstage.config import LazyCall as L
from crossstage.config import get_config

from .models.dino_r50 import model

dataloader = get_config("common/data/coco.py").dataloader
optimizer = get_config("common/optim.py").AdamW
lr_multiplier = get_config("common/schedule.py").lr_multiplier_12ep
train = get_config("common/train.py").train

train.output_dir = "./output/dino_r50_4scale_12ep"
train.max_iter = 90000
train.checkpoint_names = L(detrex_dino_names)(num_layers="${model.decoder.num_layers}")  # detrex's weights load too
