"""H-Deformable-DETR R50, two-stage, 12 epochs on COCO: detrex's recipe (49.1 AP there, with another trainer)."""

from crossstage.projects.h_detr.checkpoint import detrex_h_detr_names

from crossstage.config import LazyCall as L
from crossstage.config import get_config

from .models.h_detr_r50 import model

dataloader = get_config("common/data/coco.py").dataloader
optimizer = get_config("common/optim.py").AdamW
lr_multiplier = get_config("common/schedule.py").lr_multiplier_12ep
train = get_config("common/train.py").train

train.output_dir = "./output/h_detr_r50_two_stage_12ep"
train.max_iter = 90000
train.checkpoint_names = L(detrex_h_detr_names)(num_layers="${model.decoder.num_layers}", two_stage=True)
