"""H-Deformable-DETR (Jia et al., CVPR 2023), two-stage with a ResNet-50, as detrex configures it."""

from crossstage.config import LazyCall as L
from crossstage.config import get_config
from crossstage.layers.mlp import BoxHead, ClassHead
from crossstage.modeling.queries.one_to_many import OneToMany
from crossstage.modeling.queries.two_stage import ProposalQueries

model = get_config("common/models/deformable.py").model

model.queries = L(ProposalQueries)(
    num_queries=300,
    class_head=L(ClassHead)(embed_dim="${...embed_dim}", num_classes="${...num_classes}"),
    box_head=L(BoxHead)(embed_dim="${...embed_dim}"),
    embed_dim="${..embed_dim}",
    mixed_selection=True,
    one_to_many=L(OneToMany)(num_queries=1500, repeats=6),
)
model.decoder.look_forward_twice = True
# a weight `loss_<kind>_one2many` is the paper's lambda times the plain one: lambda is 1, so none is set
model.criterion.weights.loss_class = 2.0
