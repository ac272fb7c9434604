"""RNNDet R50 of the paper's Table 1: 12 layers with shared weights, 100 queries, 12 epochs."""

from .deqdet_r50_12ep import dataloader, lr_multiplier, optimizer, train
from .models.rnndet_r50 import model

train.output_dir = "./output/rnndet_r50_12ep"
