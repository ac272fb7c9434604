"""COCO-format data sets, augmentation, loaders, and a generated data set."""

from crossstage.torchvision_on_cpu import declare_missing_operators

declare_missing_operators()
