"""DAB-DETR R50-DC5 with three contents for each anchor, 50 epochs on COCO (45.7 AP in detrex)."""

from .dab_detr_r50_dc5_50ep import dataloader, lr_multiplier, model, optimizer, train

model.queries.source.num_patterns = 3
model.encoder.position.temperature = 20
train.output_dir = "./output/dab_detr_r50_dc5_3patterns_50ep"
