"""A small DINO on the generated dataset: what `make quickstart` and the tests train, on two CPU cores."""

from fvcore.common.param_scheduler import CosineParamScheduler

from detrkit.config import LazyCall as L
from detrkit.config import get_config
from detrkit.data.transforms import RandomFlip
from detrkit.engine.optim import WarmupParamScheduler

from .models.dino_shapes import model

dataloader = get_config("common/data/coco.py").dataloader
optimizer = get_config("common/optim.py").AdamW
train = get_config("common/train.py").train

dataloader.root = "datasets/shapes_easy"
dataloader.train.update(total_batch_size=8, num_workers=1, transform=L(RandomFlip)())
dataloader.test.update(batch_size=8, num_workers=1, transform=None)

lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.02), warmup_length=0.03
)
optimizer.lr = 2e-3
optimizer.params.lr_factors = {}

train.output_dir = "./output/dino_shapes"
train.max_iter = 1600
train.clip_grad.params.max_norm = 1.0
train.eval_period = 400
train.checkpointer.update(period=400, max_to_keep=2)
train.seed = 0
