"""RNNDet R50 of the paper's Table 3: 8 layers, 300 queries, 64 points in the initial layer, 36 epochs."""

from crossstage.config import get_config

from .rnndet_r50_12ep import model, optimizer, train

dataloader = get_config("common/recipes/deqdet.py").dataloader
lr_multiplier = get_config("common/recipes/deqdet.py").lr_multiplier_36ep

model.queries.source.num_queries = 300
model.decoder.extra_supervised = 7
model.decoder.initial.layer.sampler.num_points = 64
train.max_iter = 270000
train.output_dir = "./output/rnndet_r50_300q_36ep"
