"""DINO with a Swin-T of 224 pixels' pretraining (ImageNet-1k), four scales."""

from .dino_swin_base_384 import model

model.backbone.update(name="swin_tiny_patch4_window7_224.ms_in1k", options={"drop_path_rate": 0.1})
model.neck.in_channels = [192, 384, 768]
