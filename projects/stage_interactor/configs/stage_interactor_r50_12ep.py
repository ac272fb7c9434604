"""StageInteractor R50, 100 queries, 12 epochs on COCO, flipped images only (44.8 AP in the paper)."""

from crossstage.projects.stage_interactor.checkpoint import mmdet_stage_interactor_names

from crossstage.config import LazyCall as L
from crossstage.config import get_config

from .models.stage_interactor_r50 import model

dataloader = get_config("common/recipes/mixer.py").dataloader
optimizer = get_config("common/recipes/mixer.py").optimizer
lr_multiplier = get_config("common/recipes/mixer.py").lr_multiplier_12ep
train = get_config("common/recipes/mixer.py").train

dataloader.train.transform = get_config("common/recipes/mixer.py").flip_only
train.output_dir = "./output/stage_interactor_r50_12ep"
train.checkpoint_names = L(mmdet_stage_interactor_names)()  # the released weights load too
