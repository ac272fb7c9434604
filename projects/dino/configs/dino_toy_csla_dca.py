"""The small DINO with cross-stage labels and dual cross-attention: one line more than `dino_toy_csla.py`."""

from dca import with_dca

from .dino_toy_csla import dataloader, lr_multiplier, model, optimizer, train

model = with_dca(model)
train.output_dir = "./output/dino_toy_csla_dca"
