"""DINO R50, 4 scales, 24 epochs on COCO: as detrex, with other positions and images without objects (50.6 AP there)."""

from crossstage.config import get_config

from .dino_r50_4scale_12ep import dataloader, model, optimizer, train

lr_multiplier = get_config("common/schedule.py").lr_multiplier_24ep

model.encoder.position.update(temperature=20, offset=0.0)
dataloader.train.dataset.keep_empty = True
train.output_dir = "./output/dino_r50_4scale_24ep"
train.max_iter = 180000
