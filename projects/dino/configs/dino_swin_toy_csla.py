"""The small DINO with a small Swin and cross-stage label assignment."""

from csla import with_csla

from .dino_swin_toy import dataloader, lr_multiplier, model, optimizer, train

model = with_csla(model)
train.output_dir = "./output/dino_swin_toy_csla"
