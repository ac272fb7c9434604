"""AdaMixer (Gao et al., CVPR 2022) with a ResNet-50 and 100 queries."""

from detrkit.config import LazyCall as L
from detrkit.config import get_config
from detrkit.modeling.adaptive_mixing import AdaptiveMixing
from detrkit.modeling.point_sampler import PointSampler

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
