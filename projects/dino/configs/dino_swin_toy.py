"""The small DINO with a small Swin on the generated dataset."""

from .dino_toy import dataloader, lr_multiplier, optimizer, train
from .models.dino_swin_toy import model

optimizer.params.no_decay = ["relative_position_bias_table"]
train.output_dir = "./output/dino_swin_toy"
