"""DINO Swin-B (384, ImageNet-22k), 4 scales, 12 epochs on COCO: detrex's recipe (55.8 AP there)."""

from crossstage.projects.dino.checkpoint import detrex_dino_swin_names

from crossstage.config import LazyCall as L

from .dino_r50_4scale_12ep import dataloader, lr_multiplier, optimizer, train
from .models.dino_swin_base_384 import model

optimizer.params.no_decay = ["relative_position_bias_table"]  # as Swin's authors; norms have none anyway
train.output_dir = "./output/dino_swin_base_384_4scale_12ep"
train.checkpoint_names = L(detrex_dino_swin_names)(num_layers="${model.decoder.num_layers}")
