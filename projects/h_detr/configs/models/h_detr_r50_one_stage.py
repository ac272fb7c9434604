"""H-Deformable-DETR from learned queries: box refinement and the hybrid branch, no proposals.

detrex's own one-stage config does not run (box refinement is off there, which its look-forward-twice needs).
"""

from crossstage.config import LazyCall as L
from crossstage.config import get_config
from crossstage.layers.mlp import BoxHead
from crossstage.modeling.queries.learned import LearnedQueries
from crossstage.modeling.queries.one_to_many import OneToMany

model = get_config("common/models/deformable.py").model

model.queries = L(LearnedQueries)(
    num_queries=300, embed_dim="${..embed_dim}", one_to_many=L(OneToMany)(num_queries=1500, repeats=6)
)
model.decoder.first_box_head = L(BoxHead)(embed_dim="${up:embed_dim}", initial_size=-2.0)
model.decoder.look_forward_twice = True
model.criterion.weights.loss_class = 2.0
