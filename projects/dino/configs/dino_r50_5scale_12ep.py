"""DINO R50, 5 scales (strides 4 to 64), 12 epochs on COCO (49.6 AP in detrex)."""

from .dino_r50_4scale_12ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone.strides = [4, 8, 16, 32]
model.neck.update(in_channels=[256, 512, 1024, 2048], num_levels=5)
train.output_dir = "./output/dino_r50_5scale_12ep"
