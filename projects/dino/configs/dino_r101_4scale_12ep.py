"""DINO R101, 4 scales, 12 epochs on COCO (50.0 AP in detrex)."""

from .dino_r50_4scale_12ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone.name = "resnet101.tv_in1k"
train.output_dir = "./output/dino_r101_4scale_12ep"
