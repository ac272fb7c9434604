"""What the multi-scale deformable detectors share: ResNet-50, four scales, 6 + 6 layers of width 256, as in detrex.

A project adds `model.queries` and what its decoder has of its own.
"""

from crossstage.config import LazyCall as L
from crossstage.config import get_config
from crossstage.layers.attention import DenseAttention
from crossstage.layers.deformable import MultiScaleDeformableAttention
from crossstage.layers.mlp import FFN, BoxHead, ClassHead
from crossstage.layers.position import SinePositions
from crossstage.modeling.backbone import TimmBackbone
from crossstage.modeling.decoders.deformable import DeformableDecoder
from crossstage.modeling.detector import Detector
from crossstage.modeling.encoders.deformable import DeformableEncoder
from crossstage.modeling.neck import ChannelMapper
from crossstage.modeling.transformer import DECODER_ORDER, ENCODER_ORDER, TransformerLayer

supervision = get_config("common/models/supervision.py")

model = L(Detector)(
    num_classes=80,
    embed_dim=256,
    backbone=L(TimmBackbone)(
        name="resnet50.tv_in1k", strides=[8, 16, 32], pretrained=True, frozen_norm=True, frozen_stages=1
    ),
    neck=L(ChannelMapper)(in_channels=[512, 1024, 2048], out_channels="${up:embed_dim}", num_levels=4, groups=32),
    encoder=L(DeformableEncoder)(
        layer=L(TransformerLayer)(
            embed_dim="${up:embed_dim}",
            self_attn=L(MultiScaleDeformableAttention)(
                embed_dim="${up:embed_dim}", num_heads=8, num_levels="${up:neck.num_levels}", num_points=4
            ),
            ffn=L(FFN)(embed_dim="${up:embed_dim}", feedforward_dim=2048),
            order=ENCODER_ORDER,
        ),
        num_layers=6,
        position=L(SinePositions)(num_features=128, temperature=10000, offset=-0.5),
        embed_dim="${up:embed_dim}",
        num_levels="${up:neck.num_levels}",
    ),
    queries=None,
    decoder=L(DeformableDecoder)(
        layer=L(TransformerLayer)(
            embed_dim="${up:embed_dim}",
            self_attn=L(DenseAttention)(embed_dim="${up:embed_dim}", num_heads=8),
            cross_attn=L(MultiScaleDeformableAttention)(
                embed_dim="${up:embed_dim}", num_heads=8, num_levels="${up:neck.num_levels}", num_points=4
            ),
            ffn=L(FFN)(embed_dim="${up:embed_dim}", feedforward_dim=2048),
            order=DECODER_ORDER,
        ),
        num_layers=6,
        class_head=L(ClassHead)(embed_dim="${up:embed_dim}", num_classes="${up:num_classes}"),
        box_head=L(BoxHead)(embed_dim="${up:embed_dim}"),
    ),
    criterion=supervision.criterion,
    postprocess=supervision.postprocess,
)
