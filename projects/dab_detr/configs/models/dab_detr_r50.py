"""DAB-DETR (Liu et al., ICLR 2022) with a ResNet-50, as detrex configures it."""

from crossstage.config import get_config

model = get_config("common/models/anchor_boxes_r50.py").model
