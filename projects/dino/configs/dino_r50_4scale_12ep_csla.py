"""DINO R50, 4 scales, 12 epochs, with cross-stage label assignment (StageInteractor, Table 4)."""

from csla import with_csla

from .dino_r50_4scale_12ep import dataloader, lr_multiplier, model, optimizer, train

model = with_csla(model)
train.output_dir = "./output/dino_r50_4scale_12ep_csla"
