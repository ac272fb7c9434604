"""DEQDet with a ResNet-101 as its weights were released: 64 points, a larger neck, 300 queries, 24 epochs."""

from .deqdet_r50_64points_300q_24ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone.name = "resnet101.tv_in1k"
train.output_dir = "./output/deqdet_r101_64points_300q_24ep"
