"""AdaMixer with a ResNet-101, 300 queries, 36 epochs."""

from .adamixer_r50_300q_36ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone.name = "resnet101.tv_in1k"
train.output_dir = "./output/adamixer_r101_300q_36ep"
