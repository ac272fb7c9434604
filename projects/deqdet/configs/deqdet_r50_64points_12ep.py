"""DEQDet R50 as its weights were released: 64 points, a larger neck, 100 queries, 12 epochs."""

from .deqdet_r50_12ep import dataloader, lr_multiplier, optimizer, train
from .models.deqdet_r50_64points import model

train.output_dir = "./output/deqdet_r50_64points_12ep"
