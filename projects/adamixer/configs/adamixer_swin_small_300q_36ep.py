"""AdaMixer with a Swin-S of ImageNet-1k, 300 queries, 36 epochs."""

from crossstage.config import get_config

from .adamixer_r50_300q_36ep import dataloader, model, optimizer, train

lr_multiplier = get_config("common/recipes/mixer.py").lr_multiplier_36ep_swin

model.backbone.update(get_config("common/recipes/mixer.py").swin)
model.neck.in_channels = [96, 192, 384, 768]
optimizer.params.update(get_config("common/recipes/mixer.py").swin_decay)
train.output_dir = "./output/adamixer_swin_small_300q_36ep"
