"""The small H-Deformable-DETR as PaQ-DETR, with a tenth of the patterns.

At the host's learning rate, 2e-3, some seeds learn much less than the host (see the README); at half of it none does.
"""

from crossstage.projects.h_detr.configs.h_detr_toy import dataloader, lr_multiplier, model, optimizer, train
from crossstage.projects.paq_detr.config import with_paq

model = with_paq(model, patterns={"num_patterns": 15})
model.queries.source.content.descriptor.width = 32
optimizer.lr = 1e-3
train.output_dir = "./output/h_detr_toy_paq"
