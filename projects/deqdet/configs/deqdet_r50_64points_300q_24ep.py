"""DEQDet R50 as its weights were released: 64 points, a larger neck, 300 queries, 24 epochs."""

from .deqdet_r50_300q_24ep import dataloader, lr_multiplier, optimizer, train
from .models.deqdet_r50_64points import model

model.queries.source.num_queries = 300
train.output_dir = "./output/deqdet_r50_64points_300q_24ep"
