"""Two-stage Deformable-DETR: the encoder's best tokens give the queries; with box refinement."""

from crossstage.config import LazyCall as L
from crossstage.layers.mlp import BoxHead, ClassHead
from crossstage.modeling.queries.two_stage import ProposalQueries

from .deformable_detr_r50_with_box_refinement import model

model.queries = L(ProposalQueries)(
    num_queries=300,
    embed_dim="${..embed_dim}",
    class_head=L(ClassHead)(embed_dim="${...embed_dim}", num_classes="${...num_classes}"),
    box_head=L(BoxHead)(embed_dim="${...embed_dim}"),
)
model.decoder.first_box_head = None
