"""AdaMixer (Gao et al., CVPR 2022) with a ResNet-50 and 100 queries."""

from crossstage.config import LazyCall as L
from crossstage.config import get_config
from crossstage.modeling.decoders.adaptive_mixing import AdaptiveMixing
from crossstage.modeling.decoders.point_sampler import PointSampler

model = get_config("common/models/adamixer.py").model

model.decoder.layer.sampler = L(PointSampler)(
    embed_dim="${up:embed_dim}", num_groups=4, num_points=32, strides="${up:backbone.strides}"
)
model.decoder.layer.mixing = L(AdaptiveMixing)(
    embed_dim="${up:embed_dim}",
    num_groups="${up:sampler.num_groups}",
    num_points="${up:sampler.num_points}",
    num_outputs=128,
)
