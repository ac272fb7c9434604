"""PaQ-DAB-DETR R50, 12 epochs (49.2 AP in the paper, over a stronger baseline)."""

from crossstage.projects.dab_detr.configs.dab_detr_r50_12ep import dataloader, lr_multiplier, model, optimizer, train
from crossstage.projects.paq_detr.config import with_paq

model = with_paq(model)
train.output_dir = "./output/dab_detr_r50_12ep_paq"
