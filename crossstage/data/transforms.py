"""DETR's augmentation, on uint8 pixels and absolute boxes. Each transform is a callable `Sample -> Sample`.

Pixels stay uint8 (resizing them is several times faster than resizing floats) and are normalised on the device. All
random numbers come from torch's default generator, so that one seed decides what happens to a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transform

from crossstage.data.batch import Sample, bounding_boxes
from crossstage.errors import InputError

SHORT_EDGES = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
EMPTY_BELOW = 1e-5  # pixels; a box that a crop left thinner than this is gone


class Resize:
    """Scale the short edge to `short_edge` pixels, or less where the long edge would exceed `max_size`."""

    def __init__(self, short_edge: int = 800, max_size: int | None = 1333) -> None:
        self.short_edge = _positive("short_edge", short_edge)
        self.max_size = max_size if max_size is None else _positive("max_size", max_size)

    def __call__(self, sample: Sample) -> Sample:
        return resize(sample, short_edge=self.short_edge, max_size=self.max_size)


class RandomFlip:
    """Mirror left and right with the given probability; nothing else."""

    def __init__(self, probability: float = 0.5) -> None:
        if not 0 <= probability <= 1:
            raise InputError(f"RandomFlip probability={probability}: expected a number from 0 to 1")
        self.probability = probability

    def __call__(self, sample: Sample) -> Sample:
        return flip(sample) if torch.rand(()) < self.probability else sample


class DetrAugmentation:
    """DETR's training augmentation: a flip, then, at even odds, a resize or (resize, crop, resize).

    short_edges, max_size: the final resize draws its short edge from the former.  crop_short_edges: the short edge
    before a crop, without a limit on the long one.  crop_size: least and largest side of the crop, both sides drawn
    on their own. Boxes are clipped by the crop, and those that it left empty are removed.
    """

    def __init__(
        self,
        *,
        short_edges: Sequence[int] = SHORT_EDGES,
        max_size: int | None = 1333,
        crop_short_edges: Sequence[int] = (400, 500, 600),
        crop_size: tuple[int, int] = (384, 600),
        flip_probability: float = 0.5,
    ) -> None:
        self.short_edges = _positive_all("short_edges", short_edges)
        self.max_size = max_size if max_size is None else _positive("max_size", max_size)
        self.crop_short_edges = _positive_all("crop_short_edges", crop_short_edges)
        self.crop_size = _positive_all("crop_size", crop_size)
        if len(self.crop_size) != 2 or self.crop_size[0] > self.crop_size[1]:
            raise InputError(f"crop_size={list(crop_size)}: expected [least, largest] side in pixels")
        self.flip = RandomFlip(flip_probability)

    def __call__(self, sample: Sample) -> Sample:
        sample = self.flip(sample)
        if torch.rand(()) < 0.5:
            sample = resize(sample, short_edge=_choice(self.crop_short_edges), max_size=None)
            sample = random_crop(sample, least=self.crop_size[0], largest=self.crop_size[1])
        return resize(sample, short_edge=_choice(self.short_edges), max_size=self.max_size)


def resize(sample: Sample, *, short_edge: int, max_size: int | None) -> Sample:
    """Keep the aspect ratio (up to rounding); bilinear with antialiasing, as PIL's."""
    height, width = resized_size(sample.size, short_edge=short_edge, max_size=max_size)
    if (height, width) == sample.size:
        return sample
    return replace(
        sample,
        pixels=transform.resize(sample.pixels, [height, width], antialias=True),
        boxes=transform.resize(sample.boxes, [height, width]),
    )


def resized_size(size: tuple[int, int], *, short_edge: int, max_size: int | None) -> tuple[int, int]:
    """(height, width) after scaling the short edge to `short_edge` and the long one to at most `max_size`."""
    scale = short_edge / min(size)
    if max_size is not None:
        scale = min(scale, max_size / max(size))
    height, width = (max(1, int(length * scale + 0.5)) for length in size)
    return height, width


def flip(sample: Sample) -> Sample:
    """Mirror left and right."""
    return replace(
        sample,
        pixels=transform.horizontal_flip(sample.pixels),
        boxes=transform.horizontal_flip(sample.boxes),
    )


def random_crop(sample: Sample, *, least: int, largest: int) -> Sample:
    """Cut out a random window, each side uniform in least..largest, or the image's where that is smaller."""
    height, width = sample.size
    crop_height = _randint(min(height, least), min(height, largest))
    crop_width = _randint(min(width, least), min(width, largest))
    top, left = _randint(0, height - crop_height), _randint(0, width - crop_width)
    return crop(sample, top=top, left=left, height=crop_height, width=crop_width)


def crop(sample: Sample, *, top: int, left: int, height: int, width: int) -> Sample:
    """Cut out a window that lies inside of the image; clip the boxes to it, remove those outside with their labels."""
    corners = sample.boxes.as_subclass(Tensor) - torch.tensor([left, top, left, top])
    corners = torch.minimum(corners.clamp(min=0), torch.tensor([width, height, width, height]))
    kept = (corners[:, 2:] - corners[:, :2] > EMPTY_BELOW).all(dim=1)
    return replace(
        sample,
        pixels=transform.crop(sample.pixels, top, left, height, width),
        boxes=bounding_boxes(corners[kept], (height, width)),
        labels=sample.labels[kept],
    )


def _randint(low: int, high: int) -> int:
    """Uniform, both ends included."""
    return int(torch.randint(low, high + 1, ()))


def _choice(values: Sequence[int]) -> int:
    return values[_randint(0, len(values) - 1)]


def _positive(name: str, value: int) -> int:
    if not isinstance(value, int) or value < 1:
        raise InputError(f"{name}={value!r}: expected a whole number of pixels of at least 1")
    return value


def _positive_all(name: str, values: Sequence[int]) -> tuple[int, ...]:
    if not values:
        raise InputError(f"{name}={values!r}: expected at least one number")
    return tuple(_positive(name, value) for value in values)
