"""AdaMixer R50, 300 queries, 36 epochs on COCO, several scales and crops."""

from crossstage.config import get_config

from .adamixer_r50_12ep import model, optimizer, train

dataloader = get_config("common/recipes/mixer.py").dataloader
lr_multiplier = get_config("common/recipes/mixer.py").lr_multiplier_36ep

model.queries.source.num_queries = 300
train.max_iter = 270000
train.output_dir = "./output/adamixer_r50_300q_36ep"
