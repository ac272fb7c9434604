"""A run of seconds on generated images; `dataloader.root` and `train.output_dir` are given by the tests."""

from engine_standin import TinyDetector

from crossstage.config import LazyCall as L
from crossstage.config import get_config
from crossstage.data.transforms import Resize

dataloader = get_config("common/data/coco.py").dataloader
dataloader.train.transform = L(Resize)(short_edge=64, max_size=96)
dataloader.test.transform = L(Resize)(short_edge=64, max_size=96)
dataloader.train.total_batch_size = 4
dataloader.train.num_workers = 0
dataloader.test.batch_size = 4
dataloader.test.num_workers = 0

model = L(TinyDetector)(num_classes=8, noise=0.2, accident="", accident_at=-1)
optimizer = get_config("common/optim.py").optimizer
optimizer.lr = 0.01
lr_multiplier = get_config("common/schedule.py").lr_multiplier_12ep

train = get_config("common/train.py").train
train.max_iter = 12
train.log_period = 2
train.eval_period = 6
train.checkpointer.period = 4
train.seed = 7
train.model_ema.enabled = True
