"""COCO-format data sets, augmentation, loaders, and a generated data set.

- `coco_json`: reads and checks an annotation file
- `coco`: images and boxes of a data set
- `transforms`: DETR's augmentation
- `batch`: one image with its boxes, and how several become a batch
- `loader`: the batches of training and of evaluation
- `toy`: the generated data set
- `shapes`: the former name of `toy`, which the next release removes
"""

from crossstage.torchvision_on_cpu import declare_missing_operators

declare_missing_operators()
