"""The small DN-DETR with cross-stage label assignment."""

from csla import with_csla

from .dn_detr_toy import dataloader, lr_multiplier, model, optimizer, train

model = with_csla(model)
train.output_dir = "./output/dn_detr_toy_csla"
