"""DN-DETR (Li et al., CVPR 2022) with a ResNet-50, as detrex configures it."""

from crossstage.projects.dn_detr.modeling.denoising import IndicatorDenoising

from crossstage.config import LazyCall as L
from crossstage.config import get_config
from crossstage.config.like import like

model = get_config("common/models/anchor_boxes_r50.py").model

model.queries.source.uniform_centres = False
model.queries.extra = [
    L(IndicatorDenoising)(
        num_classes="${up:num_classes}", embed_dim="${up:embed_dim}", num_groups=5, label_noise=0.2, box_noise=0.4
    )
]
model.criterion.groups.denoising = like(model.criterion.groups.matching, names="{loss}_dn{stage}")
