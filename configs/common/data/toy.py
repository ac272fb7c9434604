"""The generated dataset (`python -m crossstage.data.toy`): images at their own size, flipped, 8 at a time."""

from crossstage.config import LazyCall as L
from crossstage.config import get_config
from crossstage.data.transforms import RandomFlip

dataloader = get_config("common/data/coco.py").dataloader

dataloader.root = "datasets/toy_easy"
dataloader.train.update(total_batch_size=8, num_workers=1, transform=L(RandomFlip)())
dataloader.test.update(batch_size=8, num_workers=1, transform=None)
