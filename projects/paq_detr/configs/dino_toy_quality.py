"""The small DINO with quality-aware assignment alone."""

from crossstage.projects.dino.configs.dino_toy import dataloader, lr_multiplier, model, optimizer, train
from crossstage.projects.paq_detr.config import with_quality

model = with_quality(model)
train.output_dir = "./output/dino_toy_quality"
