"""DINO (Zhang et al., ICLR 2023) with a ResNet-50 and four scales, as detrex configures it."""

from torch import nn

from detrkit.config import LazyCall as L
from detrkit.layers.attention import DenseAttention
from detrkit.layers.deformable import MultiScaleDeformableAttention
from detrkit.layers.mlp import FFN, BoxHead, ClassHead
from detrkit.layers.position import SinePositions
from detrkit.modeling.backbone import TimmBackbone
from detrkit.modeling.criterion import SetCriterion
from detrkit.modeling.decoder import BoxQueryPositions, DeformableDecoder
from detrkit.modeling.denoising import ContrastiveDenoising
from detrkit.modeling.detector import Detector
from detrkit.modeling.encoder import DeformableEncoder
from detrkit.modeling.labels import OwnStageLabels
from detrkit.modeling.matching import HungarianMatcher
from detrkit.modeling.neck import ChannelMapper
from detrkit.modeling.postprocess import TopK
from detrkit.modeling.queries import TwoStageQueries
from detrkit.modeling.transformer import DECODER_ORDER, ENCODER_ORDER, TransformerLayer

model = L(Detector)(
    num_classes=80,
    embed_dim=256,
    backbone=L(TimmBackbone)(
        name="resnet50.tv_in1k", strides=[8, 16, 32], pretrained=True, frozen_norm=True, frozen_stages=1
    ),
    neck=L(ChannelMapper)(in_channels=[512, 1024, 2048], out_channels="${..embed_dim}", num_levels=4, groups=32),
    encoder=L(DeformableEncoder)(
        layer=L(TransformerLayer)(
            embed_dim="${...embed_dim}",
            self_attn=L(MultiScaleDeformableAttention)(
                embed_dim="${..embed_dim}", num_heads=8, num_levels="${....neck.num_levels}", num_points=4
            ),
            ffn=L(FFN)(embed_dim="${..embed_dim}", feedforward_dim=2048),
            order=ENCODER_ORDER,
        ),
        num_layers=6,
        position=L(SinePositions)(num_features=128, temperature=10000, offset=-0.5),
        embed_dim="${..embed_dim}",
        num_levels="${..neck.num_levels}",
        _recursive_=False,
    ),
    queries=L(TwoStageQueries)(
        num_queries=900,
        embed_dim="${..embed_dim}",
        class_head=L(ClassHead)(embed_dim="${...embed_dim}", num_classes="${...num_classes}"),
        box_head=L(BoxHead)(embed_dim="${...embed_dim}"),
        denoising=L(ContrastiveDenoising)(
            num_classes="${...num_classes}",
            embed_dim="${...embed_dim}",
            num_queries=100,
            label_noise=0.5,
            box_noise=1.0,
        ),
    ),
    decoder=L(DeformableDecoder)(
        layer=L(TransformerLayer)(
            embed_dim="${...embed_dim}",
            self_attn=L(DenseAttention)(embed_dim="${..embed_dim}", num_heads=8),
            cross_attn=L(MultiScaleDeformableAttention)(
                embed_dim="${..embed_dim}", num_heads=8, num_levels="${....neck.num_levels}", num_points=4
            ),
            ffn=L(FFN)(embed_dim="${..embed_dim}", feedforward_dim=2048),
            order=DECODER_ORDER,
        ),
        num_layers=6,
        class_head=L(ClassHead)(embed_dim="${...embed_dim}", num_classes="${...num_classes}"),
        box_head=L(BoxHead)(embed_dim="${...embed_dim}"),
        query_positions=L(BoxQueryPositions)(embed_dim="${...embed_dim}"),
        norm=L(nn.LayerNorm)(normalized_shape="${...embed_dim}"),
        look_forward_twice=True,
        _recursive_=False,
    ),
    criterion=L(SetCriterion)(
        matcher=L(HungarianMatcher)(cost_class=2.0, cost_bbox=5.0, cost_giou=2.0),
        weights={"loss_class": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0},
        labels=L(OwnStageLabels)(),
    ),
    postprocess=L(TopK)(num_select=300),
)
