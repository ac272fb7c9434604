"""The small DEQDet with cross-stage labels: their window counts supervised outputs, 1 to 8 applications apart."""

from csla import with_csla

from .deqdet_toy import dataloader, lr_multiplier, model, optimizer, train

model = with_csla(model)
train.output_dir = "./output/deqdet_toy_csla"
