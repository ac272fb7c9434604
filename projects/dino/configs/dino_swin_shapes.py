"""The small DINO with a small Swin on the generated dataset."""

from .dino_shapes import dataloader, lr_multiplier, optimizer, train
from .models.dino_swin_shapes import model

optimizer.params.no_decay = ["relative_position_bias_table"]
train.output_dir = "./output/dino_swin_shapes"
