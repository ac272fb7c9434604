"""A small DEQDet on the generated dataset; its README has the AP."""

from crossstage.config import get_config

from .models.deqdet_toy import model

dataloader = get_config("common/toy.py").dataloader
optimizer = get_config("common/toy.py").optimizer
train = get_config("common/toy.py").train
lr_multiplier = get_config("common/toy.py").lr_multiplier

optimizer.lr = 5e-4
optimizer.params.lr_factors = {"backbone": 4.0}  # the backbone starts from random weights
train.max_iter = 1200
train.output_dir = "./output/deqdet_toy"
