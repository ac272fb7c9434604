"""DN-DETR (Li et al., CVPR 2022) with a ResNet-50, as detrex configures it."""

from crossstage.projects.dn_detr.modeling.denoising import IndicatorDenoising

from crossstage.config import LazyCall as L
from crossstage.config import get_config

model = get_config("common/models/anchor_boxes_r50.py").model

model.queries.uniform_centres = False
model.queries.denoising = L(IndicatorDenoising)(
    num_classes="${...num_classes}", embed_dim="${...embed_dim}", num_groups=5, label_noise=0.2, box_noise=0.4
)
