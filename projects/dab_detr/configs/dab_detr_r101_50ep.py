"""DAB-DETR R101, 50 epochs on COCO (44.0 AP in detrex)."""

from .dab_detr_r50_50ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone.name = "resnet101.tv_in1k"
train.output_dir = "./output/dab_detr_r101_50ep"
