"""The small DINO with contents from shared patterns, a tenth as many as at full size."""

from crossstage.projects.dino.configs.dino_toy import dataloader, lr_multiplier, model, optimizer, train
from crossstage.projects.paq_detr.config import with_patterns

model = with_patterns(model, num_patterns=15)
model.queries.source.content.descriptor.width = 32
train.output_dir = "./output/dino_toy_patterns"
