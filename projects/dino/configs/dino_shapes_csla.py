"""The small DINO with cross-stage label assignment: one line more than `dino_shapes.py`."""

from csla import with_csla

from .dino_shapes import dataloader, lr_multiplier, model, optimizer, train

model = with_csla(model)
train.output_dir = "./output/dino_shapes_csla"
