"""COCO-format data sets, augmentation, loaders, and a generated data set.

- `own_data`: what a config leaves to the data: files, classes, and their number
- `layouts`: finds the files of a data set in the layouts of exporters
- `coco_json`: reads and checks an annotation file
- `json_mistakes`: says which record of the file is wrong
- `classes`: matches the classes of a file to those of the training, by name
- `objects`: the objects that training uses, and what looks wrong with them
- `pixels`: decodes image files of any kind
- `coco`: images and boxes of a data set
- `image_files`: looks at every image file
- `transforms`: DETR's augmentation
- `batch`: one image with its boxes, and how several become a batch
- `loader`: the batches of training and of evaluation
- `toy`: the generated data set
- `shapes`: the former name of `toy`, which the next release removes
"""

from crossstage.torchvision_on_cpu import declare_missing_operators

declare_missing_operators()
