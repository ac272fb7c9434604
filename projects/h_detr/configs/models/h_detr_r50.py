"""H-Deformable-DETR (Jia et al., CVPR 2023), two-stage with a ResNet-50, as detrex configures it."""

from crossstage.config import LazyCall as L
from crossstage.config import get_config
from crossstage.config.like import like
from crossstage.layers.mlp import BoxHead, ClassHead
from crossstage.modeling.queries.content import LearnedContent
from crossstage.modeling.queries.joined import JoinedQueries
from crossstage.modeling.queries.one_to_many import OneToMany
from crossstage.modeling.queries.two_stage import ProposalQueries

model = get_config("common/models/deformable.py").model

model.queries = L(JoinedQueries)(
    source=L(ProposalQueries)(
        num_queries=300,
        extra_queries=1500,
        class_head=L(ClassHead)(embed_dim="${up:embed_dim}", num_classes="${up:num_classes}"),
        box_head=L(BoxHead)(embed_dim="${up:embed_dim}"),
        embed_dim="${up:embed_dim}",
        content=L(LearnedContent)(
            num_queries="${up:num_queries}", embed_dim="${up:embed_dim}", extra_queries="${up:extra_queries}"
        ),
    ),
    extra=[L(OneToMany)(num_queries="${up:source.extra_queries}")],
)
model.decoder.look_forward_twice = True

_matching = model.criterion.groups.matching
_matching.weights["class"] = 2.0
model.criterion.groups.proposals = like(_matching, names="{loss}_enc", class_agnostic=True)
# The paper's lambda is a factor on the weights of this group; it is 1 here.
model.criterion.groups.one_to_many = like(_matching, names="{loss}{stage}_one2many")
model.criterion.groups.one_to_many.matcher.copies = 6
