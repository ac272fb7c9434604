"""One image with its boxes (`Sample`), and how several become an `ImageBatch`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision import tv_tensors

from crossstage.structures import ImageBatch, Target


@dataclass(frozen=True)
class Sample:
    """One image with its boxes. Datasets yield samples, and transforms change them.

    Attributes:
        pixels: uint8 [3, H, W], RGB.
        boxes: `tv_tensors.BoundingBoxes`, float32 [T, 4], absolute xyxy in `pixels`.
        labels: int64 [T], contiguous class indices.
        image_id: the id of the image in the dataset.
        original_size: (height, width) of the image file.
    """

    pixels: Tensor
    boxes: tv_tensors.BoundingBoxes
    labels: Tensor
    image_id: int
    original_size: tuple[int, int]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of `pixels`."""
        return self.pixels.shape[-2], self.pixels.shape[-1]


def bounding_boxes(boxes_xyxy: Tensor, size: tuple[int, int]) -> tv_tensors.BoundingBoxes:
    """Wrap boxes for torchvision's transforms.

    Args:
        boxes_xyxy: absolute corners, float32 [T, 4].
        size: (height, width) of the image.

    Returns:
        The same boxes as `BoundingBoxes`.
    """
    return tv_tensors.BoundingBoxes(boxes_xyxy, format="XYXY", canvas_size=size)


def collate(samples: Sequence[Sample], *, size_divisor: int = 1) -> ImageBatch:
    """Make a batch: pad all images with zeros, at the bottom and right, to the same height and width.

    Args:
        samples: the images with their boxes.
        size_divisor: height and width are the largest of the batch, rounded up to a multiple of this.

    Returns:
        The batch. Its targets are float32, normalised cxcywh in the unpadded image.

    Raises:
        ValueError: if there is no sample.
    """
    if not samples:
        raise ValueError("a batch needs at least one image")
    sizes = tuple(sample.size for sample in samples)
    height, width = (-(-max(lengths) // size_divisor) * size_divisor for lengths in zip(*sizes, strict=True))
    pixels = torch.zeros((len(samples), 3, height, width), dtype=torch.uint8)
    mask = torch.ones((len(samples), height, width), dtype=torch.bool)
    for index, (sample, (h, w)) in enumerate(zip(samples, sizes, strict=True)):
        pixels[index, :, :h, :w] = sample.pixels
        mask[index, :h, :w] = False
    return ImageBatch(
        pixels=pixels,
        mask=mask,
        sizes=sizes,
        original_sizes=tuple(sample.original_size for sample in samples),
        image_ids=tuple(sample.image_id for sample in samples),
        targets=tuple(_target(sample) for sample in samples),
    )


def _target(sample: Sample) -> Target:
    height, width = sample.size
    x0, y0, x1, y1 = sample.boxes.as_subclass(Tensor).unbind(-1)
    boxes = torch.stack([(x0 + x1) / (2 * width), (y0 + y1) / (2 * height), (x1 - x0) / width, (y1 - y0) / height], -1)
    return Target(labels=sample.labels, boxes=boxes)
