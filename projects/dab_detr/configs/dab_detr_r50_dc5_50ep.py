"""DAB-DETR R50-DC5, its last stage dilated instead of strided, 50 epochs on COCO (44.6 AP in detrex)."""

from .dab_detr_r50_50ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone.update(strides=[16], options={"output_stride": 16}, frozen_stages=2)
model.encoder.position.temperature = 10
train.output_dir = "./output/dab_detr_r50_dc5_50ep"
train.checkpoint_names.torchvision_backbone = True
