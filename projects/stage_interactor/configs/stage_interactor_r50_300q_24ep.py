"""StageInteractor R50, 300 queries, 24 epochs on COCO, several scales and crops (48.3 AP in the paper)."""

from crossstage.config import get_config

from .stage_interactor_r50_12ep import model, optimizer, train

dataloader = get_config("common/recipes/mixer.py").dataloader
lr_multiplier = get_config("common/recipes/mixer.py").lr_multiplier_24ep

model.queries.source.num_queries = 300
train.max_iter = 180000
train.output_dir = "./output/stage_interactor_r50_300q_24ep"
