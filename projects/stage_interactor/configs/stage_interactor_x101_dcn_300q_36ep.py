"""StageInteractor, ResNeXt-101 32x4d with deformable convolutions, 300 queries, 36 epochs (51.3 AP in the paper)."""

from crossstage.config import get_config

from .stage_interactor_r50_300q_36ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone.update(get_config("common/recipes/mixer.py").resnext_dcn)
train.output_dir = "./output/stage_interactor_x101_dcn_300q_36ep"
