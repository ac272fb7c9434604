"""How DEQDet, RNNDet and FFNDet train on COCO: AdaMixer's recipe with other learning rates and weight decays.

The decoder learns at 1e-4 with a decay of 0.1, norms and biases included, all else at 2.5e-5 with 0.01. A Swin takes
`model.backbone.update(recipe.swin_small)` or `swin_large`, and `optimizer.params.update(recipe.swin_factors)`.
"""

from crossstage.config import get_config

dataloader = get_config("common/recipes/mixer.py").dataloader
flip_only = get_config("common/recipes/mixer.py").flip_only
train = get_config("common/recipes/mixer.py").train
lr_multiplier_12ep = get_config("common/recipes/mixer.py").lr_multiplier_12ep
lr_multiplier_24ep = get_config("common/recipes/mixer.py").lr_multiplier_24ep
lr_multiplier_36ep = get_config("common/recipes/mixer.py").lr_multiplier_36ep

optimizer = get_config("common/recipes/mixer.py").optimizer
optimizer.weight_decay = 0.01
optimizer.params.update(lr_factors={"decoder.": 4.0}, decay_factors={"decoder.": 10.0})

# the first part of a name that fits counts: the decoder's norms stay the decoder's, the neck's does not decay
swin_factors = {
    "lr_factors": {"decoder.": 4.0, "neck.": 1.0, "relative_position_bias_table": 0.1, "norm": 0.1},
    "decay_factors": {"decoder.": 10.0, "relative_position_bias_table": 0.0, "norm": 0.0},
}
swin_small = {**get_config("common/recipes/mixer.py").swin, "options": {"drop_path_rate": 0.3}}
swin_large = {**swin_small, "name": "swin_large_patch4_window12_384.ms_in22k", "options": {"drop_path_rate": 0.2}}
