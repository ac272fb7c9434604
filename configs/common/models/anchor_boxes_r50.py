"""What DAB-DETR and DN-DETR share, as detrex configures them: ResNet-50, one level, anchor boxes as queries."""

from torch import nn

from crossstage.config import LazyCall as L
from crossstage.config import get_config
from crossstage.layers.attention import ConditionalCrossAttention, ConditionalSelfAttention, DenseAttention
from crossstage.layers.mlp import FFN, BoxHead, ClassHead
from crossstage.layers.position import SinePositions
from crossstage.modeling.backbone import TimmBackbone
from crossstage.modeling.decoders.conditional import ConditionalDecoder
from crossstage.modeling.detector import Detector
from crossstage.modeling.encoders.dense import DenseEncoder
from crossstage.modeling.neck import SingleLevelProjection
from crossstage.modeling.queries.anchors import AnchorQueries
from crossstage.modeling.queries.joined import JoinedQueries
from crossstage.modeling.transformer import DECODER_ORDER, ENCODER_ORDER, TransformerLayer

ffn = L(FFN)(embed_dim="${up:embed_dim}", feedforward_dim=2048, activation=L(nn.PReLU)())

supervision = get_config("common/models/supervision.py")

model = L(Detector)(
    num_classes=80,
    embed_dim=256,
    backbone=L(TimmBackbone)(name="resnet50.tv_in1k", strides=[32], pretrained=True, frozen_norm=True, frozen_stages=1),
    neck=L(SingleLevelProjection)(in_channels=2048, out_channels="${up:embed_dim}"),
    encoder=L(DenseEncoder)(
        layer=L(TransformerLayer)(
            embed_dim="${up:embed_dim}",
            self_attn=L(DenseAttention)(embed_dim="${up:embed_dim}", num_heads=8),
            ffn=ffn,
            order=ENCODER_ORDER,
        ),
        num_layers=6,
        position=L(SinePositions)(num_features=128, temperature=20),
        embed_dim="${up:embed_dim}",
    ),
    queries=L(JoinedQueries)(
        source=L(AnchorQueries)(num_queries=300, embed_dim="${up:embed_dim}", num_patterns=0, uniform_centres=True),
        extra=[],
    ),
    decoder=L(ConditionalDecoder)(
        layer=L(TransformerLayer)(
            embed_dim="${up:embed_dim}",
            self_attn=L(ConditionalSelfAttention)(embed_dim="${up:embed_dim}", num_heads=8),
            cross_attn=L(ConditionalCrossAttention)(embed_dim="${up:embed_dim}", num_heads=8),
            ffn=ffn,
            order=DECODER_ORDER,
        ),
        num_layers=6,
        class_head=L(ClassHead)(embed_dim="${up:embed_dim}", num_classes="${up:num_classes}"),
        box_head=L(BoxHead)(embed_dim="${up:embed_dim}"),
        embed_dim="${up:embed_dim}",
        attends_to_padding=True,  # an error in detrex, with which its weights were trained
    ),
    criterion=supervision.criterion,
    postprocess=supervision.postprocess,
)
