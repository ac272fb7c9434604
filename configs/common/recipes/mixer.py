"""How AdaMixer and StageInteractor train on COCO, as their mmdetection configs say.

AdamW with one learning rate for all, norms decayed like the rest, clipping at 1, a warm-up of 500 iterations, two steps
down; images padded to multiples of 32. A config takes one schedule with its `train.max_iter`, and:
- 12 epochs with 100 queries: `dataloader.train.transform = recipe.flip_only`;
- 300 queries and more: the `dataloader` as it is, flip and crop (`DetrAugmentation`, which mmdet's policy equals but
  for a limit of 1333 pixels before the crop; boxes may all be cropped away);
- a ResNeXt with deformable convolutions: `model.backbone.update(recipe.resnext_dcn)`;
- a Swin: `model.backbone.update(recipe.swin)`, `optimizer.params.update(recipe.swin_decay)`, `lr_multiplier_36ep_swin`.
"""

from fvcore.common.param_scheduler import MultiStepParamScheduler
from torchvision.transforms.v2 import Compose

from crossstage.config import LazyCall as L
from crossstage.config import get_config
from crossstage.data.transforms import RandomFlip
from crossstage.engine.optim import WarmupParamScheduler
from crossstage.modeling.backbone import DeformableStages, FixedStatistics

dataloader = get_config("common/data/coco.py").dataloader
dataloader.train.size_divisor = 32
dataloader.test.size_divisor = 32
flip_only = L(Compose)(transforms=[L(RandomFlip)(probability=0.5), dataloader.test.transform])

optimizer = get_config("common/optim.py").AdamW
optimizer.lr = 2.5e-5
optimizer.params.update(lr_factors={}, weight_decay_norm="${up:weight_decay}")
swin_decay = {"weight_decay_norm": 0.0, "no_decay": ["relative_position_bias_table"]}

train = get_config("common/train.py").train
train.max_iter = 90000
train.clip_grad.params.max_norm = 1.0
train.eval_period = 7500  # one epoch
train.checkpointer.period = 7500

# The rate falls after 8 and 11 of 12 epochs, 16 and 22 of 24, 24 and 33 of 36; an epoch has 7 500 iterations, as in
# common/schedule.py.
lr_multiplier_12ep = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1, 0.01], milestones=[60000, 82500, 90000]),
    warmup_length=500 / 90000,
    warmup_factor=0.001,
)
lr_multiplier_24ep = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1, 0.01], milestones=[120000, 165000, 180000]),
    warmup_length=500 / 180000,
    warmup_factor=0.001,
)
lr_multiplier_36ep = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1, 0.01], milestones=[180000, 247500, 270000]),
    warmup_length=500 / 270000,
    warmup_factor=0.001,
)
lr_multiplier_36ep_swin = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1, 0.01], milestones=[180000, 247500, 270000]),
    warmup_length=1000 / 270000,
    warmup_factor=0.001,
)

resnext_dcn = {
    "name": "resnext101_32x4d.gluon_in1k",
    "edits": [L(FixedStatistics)(), L(DeformableStages)(stages=[2, 3, 4])],
}
swin = {
    "name": "swin_small_patch4_window7_224.ms_in1k",
    "frozen_norm": False,
    "frozen_stages": 0,
    "edits": [],
    "output_norm": True,
    "options": {"drop_path_rate": 0.2},
}
