"""PaQ-DINO R50, 4 scales, 12 epochs (51.9 AP in the paper, over a stronger DINO)."""

from crossstage.projects.dino.configs.dino_r50_4scale_12ep import dataloader, lr_multiplier, model, optimizer, train
from crossstage.projects.paq_detr.config import with_paq

model = with_paq(model)
train.output_dir = "./output/dino_r50_4scale_12ep_paq"
