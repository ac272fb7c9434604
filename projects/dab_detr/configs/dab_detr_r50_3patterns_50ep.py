"""DAB-DETR R50 with three contents for each anchor, 50 epochs on COCO (42.8 AP in detrex)."""

from .dab_detr_r50_50ep import dataloader, lr_multiplier, model, optimizer, train

model.queries.source.num_patterns = 3
train.output_dir = "./output/dab_detr_r50_3patterns_50ep"
