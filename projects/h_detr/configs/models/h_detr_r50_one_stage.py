"""H-Deformable-DETR from learned queries: box refinement and the hybrid branch, no proposals.

detrex's own one-stage config does not run (box refinement is off there, which its look-forward-twice needs).
"""

from crossstage.config import LazyCall as L
from crossstage.config import get_config
from crossstage.config.like import like
from crossstage.layers.mlp import BoxHead
from crossstage.modeling.queries.joined import JoinedQueries
from crossstage.modeling.queries.learned import LearnedQueries
from crossstage.modeling.queries.one_to_many import OneToMany

model = get_config("common/models/deformable.py").model

model.queries = L(JoinedQueries)(
    source=L(LearnedQueries)(num_queries=300, embed_dim="${up:embed_dim}", extra_queries=1500),
    extra=[L(OneToMany)(num_queries="${up:source.extra_queries}")],
)
model.decoder.first_box_head = L(BoxHead)(embed_dim="${up:embed_dim}", initial_size=-2.0)
model.decoder.look_forward_twice = True

_matching = model.criterion.groups.matching
_matching.weights["class"] = 2.0
model.criterion.groups.one_to_many = like(_matching, names="{loss}{stage}_one2many")
model.criterion.groups.one_to_many.matcher.copies = 6
