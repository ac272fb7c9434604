"""DEQDet with a Swin-S of ImageNet-1k, 300 queries, 24 epochs."""

from crossstage.config import get_config

from .deqdet_r50_300q_24ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone.update(get_config("common/recipes/deqdet.py").swin_small)
model.neck.in_channels = [96, 192, 384, 768]
optimizer.params.update(get_config("common/recipes/deqdet.py").swin_factors)
train.output_dir = "./output/deqdet_swin_small_300q_24ep"
