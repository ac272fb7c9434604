"""DEQDet with a Swin-S as its weights were released: 64 points, a larger neck, 300 queries, 24 epochs."""

from crossstage.config import get_config

from .deqdet_r50_64points_300q_24ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone.update(get_config("common/recipes/deqdet.py").swin_small)
model.neck.in_channels = [96, 192, 384, 768]
optimizer.params.update(get_config("common/recipes/deqdet.py").swin_factors)
train.output_dir = "./output/deqdet_swin_small_64points_300q_24ep"
