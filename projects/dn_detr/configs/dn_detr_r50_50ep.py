"""DN-DETR R50, 50 epochs on COCO: detrex's recipe (44.7 AP there)."""

from crossstage.projects.dn_detr.checkpoint import detrex_dn_detr_names

from crossstage.config import LazyCall as L
from crossstage.config import get_config

from .models.dn_detr_r50 import model

dataloader = get_config("common/data/coco.py").dataloader
optimizer = get_config("common/optim.py").AdamW
lr_multiplier = get_config("common/schedule.py").lr_multiplier_50ep
train = get_config("common/train.py").train

train.output_dir = "./output/dn_detr_r50_50ep"
train.max_iter = 375000
train.checkpoint_names = L(detrex_dn_detr_names)(torchvision_backbone=False)  # detrex's weights load too
