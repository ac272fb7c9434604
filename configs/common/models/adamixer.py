"""What AdaMixer and StageInteractor share: ResNet-50, four scales from stride 4 on, no encoder, 6 stages, 100 queries.

A project adds `model.decoder.layer.sampler` and `.mixing`, and what its supervision has of its own.
"""

from crossstage.config import LazyCall as L
from crossstage.config import get_config
from crossstage.layers.mlp import FFN
from crossstage.modeling.backbone import FixedStatistics, TimmBackbone
from crossstage.modeling.decoders.mixer import MixerDecoder, MixerLayer, NormedHead, OverlapAttention
from crossstage.modeling.detector import Detector
from crossstage.modeling.encoders.none import NoEncoder
from crossstage.modeling.neck import SharedNormMapper
from crossstage.modeling.postprocess import TopK
from crossstage.modeling.queries.boxes import BoxQueries
from crossstage.modeling.queries.joined import JoinedQueries
from crossstage.modeling.supervision.normalizers import LabelCount

model = L(Detector)(
    num_classes=80,
    embed_dim=256,
    backbone=L(TimmBackbone)(
        name="resnet50.tv_in1k",
        strides=[4, 8, 16, 32],
        pretrained=True,
        frozen_norm=False,
        frozen_stages=2,
        edits=[L(FixedStatistics)()],
    ),
    neck=L(SharedNormMapper)(in_channels=[256, 512, 1024, 2048], out_channels="${up:embed_dim}", groups=32),
    encoder=L(NoEncoder)(),
    queries=L(JoinedQueries)(source=L(BoxQueries)(num_queries=100, embed_dim="${up:embed_dim}"), extra=[]),
    decoder=L(MixerDecoder)(
        layer=L(MixerLayer)(
            embed_dim="${up:embed_dim}",
            attention=L(OverlapAttention)(embed_dim="${up:embed_dim}", num_heads=8),
            sampler=None,
            mixing=None,
            ffn=L(FFN)(embed_dim="${up:embed_dim}", feedforward_dim=2048),
        ),
        num_layers=6,
        class_head=L(NormedHead)(embed_dim="${up:embed_dim}", out_dim="${up:num_classes}", prior=0.01),
        box_head=L(NormedHead)(embed_dim="${up:embed_dim}", out_dim=4),
    ),
    criterion=get_config("common/models/supervision.py").criterion,
    postprocess=L(TopK)(num_select="${up:queries.source.num_queries}", clip=False, nms_threshold=None),
)

_matching = model.criterion.groups.matching
_matching.matcher.class_cost.eps = 1e-12
_matching.matcher.box_distance.update(corners=True, eps=1e-30)
_matching.normalizer = L(LabelCount)()
_matching.weights["class"] = 2.0
