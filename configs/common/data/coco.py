"""A COCO-format dataset, augmented as DETR does.

`dataloader.root` alone says where COCO lies. For other data, `dataloader.data` finds the files (see
`crossstage.data.layouts`), and `dataloader.image_size` changes all lengths of the augmentation together.
"""

from omegaconf import OmegaConf

from crossstage.config import LazyCall as L
from crossstage.data.coco import CocoDetection
from crossstage.data.loader import TestLoader, TrainLoader
from crossstage.data.transforms import DetrAugmentation, Resize
from crossstage.evaluation import CocoEvaluator

dataloader = OmegaConf.create()

dataloader.root = "datasets/coco"
dataloader.data = None  # a folder, or [train.json, val.json]: replaces the files below and sets the number of classes
dataloader.image_size = None  # the largest short edge in pixels; the other lengths follow. None: as written below

dataloader.train = L(TrainLoader)(
    dataset=L(CocoDetection)(
        json_file="${dataloader.root}/annotations/instances_train2017.json",
        image_root="${dataloader.root}/train2017",
        keep_empty=False,  # as in detrex, images without objects are not used in training
    ),
    transform=L(DetrAugmentation)(
        short_edges=[480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800],
        max_size=1333,
        crop_short_edges=[400, 500, 600],
        crop_size=[384, 600],
        image_size="${dataloader.image_size}",
    ),
    total_batch_size=16,  # over all GPUs
    num_workers=4,  # per GPU
    seed="${train.seed}",
)

dataloader.test = L(TestLoader)(
    dataset=L(CocoDetection)(
        json_file="${dataloader.root}/annotations/instances_val2017.json",
        image_root="${dataloader.root}/val2017",
        keep_empty=True,
    ),
    transform=L(Resize)(short_edge=800, max_size=1333, image_size="${dataloader.image_size}"),
    batch_size=1,
    num_workers=4,
)

dataloader.evaluator = L(CocoEvaluator)(
    json_file="${dataloader.test.dataset.json_file}",
    output_dir="${train.output_dir}",  # for the predictions as COCO JSON
)
