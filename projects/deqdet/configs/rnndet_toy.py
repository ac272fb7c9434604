"""A small RNNDet on the generated dataset; its README has the AP."""

from .deqdet_toy import dataloader, lr_multiplier, optimizer, train
from .models.rnndet_toy import model

train.output_dir = "./output/rnndet_toy"
