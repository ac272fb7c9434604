"""DINO with a Swin-L of 384 pixels' pretraining (ImageNet-22k, then 1k), four scales."""

from .dino_swin_base_384 import model

model.backbone.update(name="swin_large_patch4_window12_384.ms_in22k_ft_in1k", options={"drop_path_rate": 0.2})
model.neck.in_channels = [384, 768, 1536]
