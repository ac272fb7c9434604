"""DEQDet with a ResNet-101, 300 queries, 24 epochs."""

from .deqdet_r50_300q_24ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone.name = "resnet101.tv_in1k"
train.output_dir = "./output/deqdet_r101_300q_24ep"
