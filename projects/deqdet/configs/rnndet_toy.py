"""A small RNNDet on the generated dataset; not trained to the end yet."""

from .deqdet_toy import dataloader, lr_multiplier, optimizer, train
from .models.rnndet_toy import model

train.output_dir = "./output/rnndet_toy"
