"""Two-stage Deformable-DETR: the encoder's best tokens give the queries; with box refinement."""

from crossstage.config import LazyCall as L
from crossstage.config.like import like
from crossstage.layers.mlp import BoxHead, ClassHead
from crossstage.modeling.queries.two_stage import ProposalQueries

from .deformable_detr_r50_with_box_refinement import model

model.queries.source = L(ProposalQueries)(
    num_queries=300,
    embed_dim="${up:embed_dim}",
    class_head=L(ClassHead)(embed_dim="${up:embed_dim}", num_classes="${up:num_classes}"),
    box_head=L(BoxHead)(embed_dim="${up:embed_dim}"),
)
model.criterion.groups.proposals = like(model.criterion.groups.matching, names="{loss}_enc", class_agnostic=True)
model.decoder.first_box_head = None
