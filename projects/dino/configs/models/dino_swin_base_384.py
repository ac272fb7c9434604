"""DINO with a Swin-B of 384 pixels' pretraining (ImageNet-22k, then 1k), four scales."""

from .dino_r50 import model

model.backbone.update(
    name="swin_base_patch4_window12_384.ms_in22k_ft_in1k",
    frozen_norm=False,
    frozen_stages=0,
    output_norm=True,
    options={"drop_path_rate": 0.2},
)
model.neck.in_channels = [256, 512, 1024]
