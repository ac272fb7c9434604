"""DINO (Zhang et al., ICLR 2023) with a ResNet-50 and four scales, as detrex configures it."""

from torch import nn

from crossstage.config import LazyCall as L
from crossstage.config import get_config
from crossstage.config.like import like
from crossstage.layers.mlp import BoxHead, ClassHead
from crossstage.modeling.decoders.deformable import BoxQueryPositions
from crossstage.modeling.queries.denoising import ContrastiveDenoising
from crossstage.modeling.queries.joined import JoinedQueries
from crossstage.modeling.queries.two_stage import TwoStageQueries

model = get_config("common/models/deformable.py").model

model.queries = L(JoinedQueries)(
    source=L(TwoStageQueries)(
        num_queries=900,
        embed_dim="${up:embed_dim}",
        class_head=L(ClassHead)(embed_dim="${up:embed_dim}", num_classes="${up:num_classes}"),
        box_head=L(BoxHead)(embed_dim="${up:embed_dim}"),
    ),
    extra=[
        L(ContrastiveDenoising)(
            num_classes="${up:num_classes}",
            embed_dim="${up:embed_dim}",
            num_queries=100,
            label_noise=0.5,
            box_noise=1.0,
        )
    ],
)
model.decoder.update(
    query_positions=L(BoxQueryPositions)(embed_dim="${up:embed_dim}"),
    norm=L(nn.LayerNorm)(normalized_shape="${up:embed_dim}"),
    look_forward_twice=True,
)
_matching = model.criterion.groups.matching
model.criterion.groups.denoising = like(_matching, names="{loss}_dn{stage}")
model.criterion.groups.proposals = like(_matching, names="{loss}_enc")
