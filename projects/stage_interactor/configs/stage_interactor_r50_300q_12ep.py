"""StageInteractor R50, 300 queries, 12 epochs on COCO, several scales and crops (46.3 AP in the paper)."""

from crossstage.config import get_config

from .stage_interactor_r50_12ep import lr_multiplier, model, optimizer, train

dataloader = get_config("common/recipes/mixer.py").dataloader

model.queries.source.num_queries = 300
train.output_dir = "./output/stage_interactor_r50_300q_12ep"
