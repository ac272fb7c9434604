"""The small DAB-DETR as PaQ-DETR, with a tenth of the patterns."""

from crossstage.projects.dab_detr.configs.dab_detr_toy import dataloader, lr_multiplier, model, optimizer, train
from crossstage.projects.paq_detr.config import with_paq

model = with_paq(model, patterns={"num_patterns": 15})
model.queries.source.content.descriptor.width = 32
train.output_dir = "./output/dab_detr_toy_paq"
