"""DEQDet R50, 300 queries, 64 points in the initial layer, 12 epochs on COCO, several scales and crops."""

from crossstage.config import get_config

from .deqdet_r50_12ep import lr_multiplier, model, optimizer, train

dataloader = get_config("common/recipes/deqdet.py").dataloader

model.queries.source.num_queries = 300
model.decoder.initial.layer.sampler.num_points = 64
train.output_dir = "./output/deqdet_r50_300q_12ep"
