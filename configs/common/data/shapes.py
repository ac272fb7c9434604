"""The generated dataset (`python -m detrkit.data.shapes`): images at their own size, flipped, 8 at a time."""

from detrkit.config import LazyCall as L
from detrkit.config import get_config
from detrkit.data.transforms import RandomFlip

dataloader = get_config("common/data/coco.py").dataloader

dataloader.root = "datasets/shapes_easy"
dataloader.train.update(total_batch_size=8, num_workers=1, transform=L(RandomFlip)())
dataloader.test.update(batch_size=8, num_workers=1, transform=None)
