"""AdaMixer with a ResNeXt-101 32x4d whose stages 3 to 5 have deformable convolutions, 300 queries, 36 epochs."""

from crossstage.config import get_config

from .adamixer_r50_300q_36ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone.update(get_config("common/recipes/mixer.py").resnext_dcn)
train.output_dir = "./output/adamixer_x101_dcn_300q_36ep"
