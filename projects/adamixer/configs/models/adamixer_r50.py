"""AdaMixer (Gao et al., CVPR 2022) with a ResNet-50 and 100 queries."""

from crossstage.config import LazyCall as L
from crossstage.config import get_config
from crossstage.modeling.decoders.adaptive_mixing import AdaptiveMixing
from crossstage.modeling.decoders.point_sampler import PointSampler

model = get_config("common/models/adamixer.py").model

model.decoder.layer.sampler = L(PointSampler)(
    embed_dim="${..embed_dim}", num_groups=4, num_points=32, strides="${....backbone.strides}", stage=0
)
model.decoder.layer.mixing = L(AdaptiveMixing)(
    embed_dim="${..embed_dim}",
    num_groups="${..sampler.num_groups}",
    num_points="${..sampler.num_points}",
    num_outputs=128,
    stage=0,
)
