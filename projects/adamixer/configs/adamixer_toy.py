"""A small AdaMixer on the generated dataset: it trains on two CPU cores in minutes."""

from crossstage.config import get_config

from .models.adamixer_toy import model

dataloader = get_config("common/toy.py").dataloader
optimizer = get_config("common/toy.py").optimizer
train = get_config("common/toy.py").train
lr_multiplier = get_config("common/toy.py").lr_multiplier

optimizer.lr = 5e-4  # of the rates from 3e-4 to 2e-3, the lower ones learned faster
optimizer.params.lr_factors = {"backbone": 4.0}  # the backbone starts from random weights
train.max_iter = 1500
train.output_dir = "./output/adamixer_toy"
