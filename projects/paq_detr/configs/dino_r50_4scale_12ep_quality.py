"""DINO R50 with quality-aware assignment alone, 12 epochs (51.1 AP in the paper, over a stronger DINO)."""

from crossstage.projects.dino.configs.dino_r50_4scale_12ep import dataloader, lr_multiplier, model, optimizer, train
from crossstage.projects.paq_detr.config import with_quality

model = with_quality(model)
train.output_dir = "./output/dino_r50_4scale_12ep_quality"
