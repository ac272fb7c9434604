"""How DEQDet, RNNDet and FFNDet train on COCO: AdaMixer's recipe with other learning rates and weight decays.

The decoder learns at 1e-4 with a decay of 0.1, norms and biases included, all else at 2.5e-5 with 0.01. A Swin takes
`model.backbone.update(recipe.swin_small)` or `swin_large`, and `optimizer.params.update(recipe.swin_optimizer)`: its norms and
relative positions learn at a tenth and do not decay, nor does the neck's norm.
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
