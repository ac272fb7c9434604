"""DEQDet with a Swin-L of ImageNet-22k, 64 points, a larger neck, 300 queries, 24 epochs."""

from crossstage.config import get_config

from .deqdet_swin_small_64points_300q_24ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone.update(get_config("common/recipes/deqdet.py").swin_large)
model.neck.in_channels = [192, 384, 768, 1536]
train.output_dir = "./output/deqdet_swin_large_300q_24ep"
