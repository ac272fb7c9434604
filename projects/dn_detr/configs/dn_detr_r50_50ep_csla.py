"""DN-DETR R50, 50 epochs, with cross-stage label assignment (StageInteractor, Table 4)."""

from csla import with_csla

from .dn_detr_r50_50ep import dataloader, lr_multiplier, model, optimizer, train

model = with_csla(model)
train.output_dir = "./output/dn_detr_r50_50ep_csla"
