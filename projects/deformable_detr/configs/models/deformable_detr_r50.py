"""Deformable-DETR (Zhu et al., ICLR 2021) with a ResNet-50, without box refinement, as detrex configures it."""

from crossstage.config import LazyCall as L
from crossstage.config import get_config
from crossstage.layers.mlp import BoxHead
from crossstage.modeling.queries.joined import JoinedQueries
from crossstage.modeling.queries.learned import LearnedQueries

model = get_config("common/models/deformable.py").model

model.queries = L(JoinedQueries)(source=L(LearnedQueries)(num_queries=300, embed_dim="${up:embed_dim}"), extra=[])
model.decoder.update(
    look_forward_twice=False,
    first_box_head=L(BoxHead)(embed_dim="${up:embed_dim}", initial_size=-2.0),
    refine=False,
)
for _layer in (model.encoder.layer, model.decoder.layer):
    _layer.ffn.update(feedforward_dim=1024, dropout=0.1)
    _layer.self_attn.dropout = 0.1
model.decoder.layer.cross_attn.dropout = 0.1
