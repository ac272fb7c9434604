"""DINO R50, 4 scales, 24 epochs, with CSLA and dual cross-attention (StageInteractor, Table 4)."""

from dca import with_dca

from .dino_r50_4scale_24ep_csla import dataloader, lr_multiplier, model, optimizer, train

model = with_dca(model)
train.output_dir = "./output/dino_r50_4scale_24ep_csla_dca"
