"""A small deformable detector with a fixed point as its decoder, on the generated dataset."""

from crossstage.config import get_config

from .models.deq_deformable_toy import model

dataloader = get_config("common/toy.py").dataloader
optimizer = get_config("common/toy.py").optimizer
train = get_config("common/toy.py").train
lr_multiplier = get_config("common/toy.py").lr_multiplier

train.output_dir = "./output/deq_deformable_toy"
