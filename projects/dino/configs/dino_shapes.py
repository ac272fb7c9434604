"""A small DINO on the generated dataset: what `make quickstart` and the tests train, on two CPU cores."""

from detrkit.config import get_config

from .models.dino_shapes import model

dataloader = get_config("common/shapes.py").dataloader
optimizer = get_config("common/shapes.py").optimizer
train = get_config("common/shapes.py").train
lr_multiplier = get_config("common/shapes.py").lr_multiplier

train.output_dir = "./output/dino_shapes"
