"""Deformable-DETR R50, 50 epochs on COCO: detrex's recipe (44.9 AP there, with class weight 2)."""

from crossstage.projects.deformable_detr.checkpoint import detrex_deformable_detr_names

from crossstage.config import LazyCall as L
from crossstage.config import get_config

from .models.deformable_detr_r50 import model

dataloader = get_config("common/data/coco.py").dataloader
optimizer = get_config("common/optim.py").AdamW
lr_multiplier = get_config("common/schedule.py").lr_multiplier_50ep
train = get_config("common/train.py").train

train.output_dir = "./output/deformable_detr_r50_50ep"
train.max_iter = 375000
train.checkpoint_names = L(detrex_deformable_detr_names)(
    num_layers="${model.decoder.num_layers}", refine="${model.decoder.refine}", two_stage=False
)  # detrex's weights load too
