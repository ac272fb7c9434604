"""The generated dataset (`python -m crossstage.data.toy`): images at their own size, flipped, 8 at a time.

Images of other data that are larger than 512 pixels are shrunk, because these configs are for the CPU.
"""

from torchvision.transforms.v2 import Compose

from crossstage.config import LazyCall as L
from crossstage.config import get_config
from crossstage.data.transforms import RandomFlip, Resize

dataloader = get_config("common/data/coco.py").dataloader

dataloader.root = "datasets/toy_easy"
dataloader.test.transform = L(Resize)(short_edge=None, max_size=512, image_size="${dataloader.image_size}")
dataloader.train.transform = L(Compose)(transforms=[L(RandomFlip)(), dataloader.test.transform])
dataloader.train.update(total_batch_size=8, num_workers=1)
dataloader.test.update(batch_size=8, num_workers=1)
