"""PaQ-DINO R50 without quality-aware assignment, 12 epochs (51.4 AP in the paper, over a stronger DINO)."""

from crossstage.projects.dino.configs.dino_r50_4scale_12ep import dataloader, lr_multiplier, model, optimizer, train
from crossstage.projects.paq_detr.config import with_patterns

model = with_patterns(model)
train.output_dir = "./output/dino_r50_4scale_12ep_patterns"
