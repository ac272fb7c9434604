"""The small DINO with cross-stage label assignment: one line more than `dino_toy.py`."""

from csla import with_csla

from .dino_toy import dataloader, lr_multiplier, model, optimizer, train

model = with_csla(model)
train.output_dir = "./output/dino_toy_csla"
