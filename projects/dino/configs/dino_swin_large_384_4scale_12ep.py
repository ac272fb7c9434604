"""DINO Swin-L (384), 4 scales, 12 epochs on COCO: as the Swin-B (56.9 AP in detrex)."""

from .dino_swin_base_384_4scale_12ep import dataloader, lr_multiplier, optimizer, train
from .models.dino_swin_large_384 import model

train.output_dir = "./output/dino_swin_large_384_4scale_12ep"
