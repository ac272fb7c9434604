"""PaQ-DN-DETR R50, 12 epochs (48.9 AP in the paper, over a stronger baseline)."""

from crossstage.projects.dn_detr.configs.dn_detr_r50_12ep import dataloader, lr_multiplier, model, optimizer, train
from crossstage.projects.paq_detr.config import with_paq

model = with_paq(model)
train.output_dir = "./output/dn_detr_r50_12ep_paq"
