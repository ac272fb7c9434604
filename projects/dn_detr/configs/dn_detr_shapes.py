"""A small DN-DETR on the generated dataset."""

from detrkit.config import get_config

from .models.dn_detr_shapes import model

dataloader = get_config("common/shapes.py").dataloader
optimizer = get_config("common/shapes.py").optimizer
train = get_config("common/shapes.py").train
lr_multiplier = get_config("common/shapes.py").lr_multiplier

optimizer.lr = 1e-3
train.output_dir = "./output/dn_detr_shapes"
