"""A small DN-DETR on the generated dataset."""

from crossstage.config import get_config

from .models.dn_detr_toy import model

dataloader = get_config("common/toy.py").dataloader
optimizer = get_config("common/toy.py").optimizer
train = get_config("common/toy.py").train
lr_multiplier = get_config("common/toy.py").lr_multiplier

optimizer.lr = 1e-3
train.output_dir = "./output/dn_detr_toy"
