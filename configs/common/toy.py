"""How a small detector trains on the generated dataset, in minutes on two CPU cores; a config sets its output_dir."""

from fvcore.common.param_scheduler import CosineParamScheduler

from crossstage.config import LazyCall as L
from crossstage.config import get_config
from crossstage.engine.optim import WarmupParamScheduler

dataloader = get_config("common/data/toy.py").dataloader
optimizer = get_config("common/optim.py").AdamW
train = get_config("common/train.py").train

lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.02), warmup_length=0.03
)
optimizer.lr = 2e-3
optimizer.params.lr_factors = {}

train.max_iter = 1600
train.clip_grad.params.max_norm = 1.0
train.eval_period = 400
train.checkpointer.update(period=400, max_to_keep=2)
train.seed = 0
train.cpu_threads = 1  # a small model gains nothing from more, and loses much if other processes need the cores
