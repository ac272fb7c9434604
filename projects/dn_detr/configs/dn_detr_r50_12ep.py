"""DN-DETR R50, 12 epochs on COCO: the baseline of PaQ-DETR's row, with detrex's other settings."""

from crossstage.config import get_config

from .dn_detr_r50_50ep import dataloader, model, optimizer, train

lr_multiplier = get_config("common/schedule.py").lr_multiplier_12ep

train.max_iter = 90000
train.output_dir = "./output/dn_detr_r50_12ep"
