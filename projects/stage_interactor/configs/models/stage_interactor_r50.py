"""StageInteractor (Teng et al., ICCV 2023) with a ResNet-50 and 100 queries."""

from crossstage.projects.stage_interactor.modeling.filters import AdaptedFilters, ChannelSpatialMixing, FilterReuse
from crossstage.projects.stage_interactor.modeling.grouped_sampler import GroupedSampler
from crossstage.projects.stage_interactor.modeling.mixing import CascadeMixing

from crossstage.config import LazyCall as L
from crossstage.config import get_config
from crossstage.layers.position_vector import SideMoves
from csla import with_csla

model = with_csla(
    get_config("common/models/adamixer.py").model,
    iou_threshold=0.5,  # Table 14
    look_back=1,  # Table 13: the window [i - 1, L]
    look_ahead=None,
    plain_last_stages=0,
)

model.decoder.moves = L(SideMoves)()
model.decoder.layer.attention.zero_output_bias = True
model.decoder.layer.sampler = L(GroupedSampler)(
    embed_dim="${up:embed_dim}",
    num_groups=4,
    num_anchors=[8, 4],  # for the first stage, then for all others
    num_details=8,
    strides="${up:backbone.strides}",
)
model.decoder.layer.mixing = L(CascadeMixing)(
    embed_dim="${up:embed_dim}",
    num_groups="${up:sampler.num_groups}",
    num_anchors="${up:sampler.num_anchors}",
    num_details="${up:sampler.num_details}",
    num_outputs=128,
    reuse=L(FilterReuse)(first_stage=2, channel_filters=None, spatial_filters=1),
    static=L(ChannelSpatialMixing)(),
    blend=L(AdaptedFilters)(),
)
