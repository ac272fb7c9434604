"""DINO Swin-B, 4 scales, 12 epochs, with cross-stage label assignment (StageInteractor, Table 5)."""

from csla import with_csla

from .dino_swin_base_384_4scale_12ep import dataloader, lr_multiplier, model, optimizer, train

model = with_csla(model)
train.output_dir = "./output/dino_swin_base_384_4scale_12ep_csla"
