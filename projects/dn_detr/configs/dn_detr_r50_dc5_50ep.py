"""DN-DETR R50-DC5, its last stage dilated instead of strided, 50 epochs on COCO (46.3 AP in detrex)."""

from .dn_detr_r50_50ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone.update(strides=[16], options={"output_stride": 16}, frozen_stages=2)
train.output_dir = "./output/dn_detr_r50_dc5_50ep"
train.checkpoint_names.torchvision_backbone = True
