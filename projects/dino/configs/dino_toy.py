"""A small DINO on the generated dataset: what `make quickstart` and the tests train, on two CPU cores."""

from crossstage.config import get_config

from .models.dino_toy import model

dataloader = get_config("common/toy.py").dataloader
optimizer = get_config("common/toy.py").optimizer
train = get_config("common/toy.py").train
lr_multiplier = get_config("common/toy.py").lr_multiplier

train.output_dir = "./output/dino_toy"
