"""The small DINO with cross-stage labels and dual cross-attention: one line more than `dino_shapes_csla.py`."""

from dca import with_dca

from .dino_shapes_csla import dataloader, lr_multiplier, model, optimizer, train

model = with_dca(model)
train.output_dir = "./output/dino_shapes_csla_dca"
