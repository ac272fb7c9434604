"""DETR's augmentation for uint8 pixels and absolute boxes. Each transform is a callable `Sample -> Sample`.

Pixels stay uint8, because resizing them is several times faster than resizing floats; the device normalises them
later. All random numbers come from torch's default generator, so that one seed determines the augmentation.
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
LIMIT = 1333  # of the long edge, for a short edge of 800
EMPTY_BELOW = 1e-5  # pixels; a crop removes boxes of which less than this is left


class Resize:
    """Scale the short edge to `short_edge` pixels, or to fewer if the long edge would exceed `max_size` pixels.

    Args:
        short_edge: the short edge in pixels; None keeps the image as it is unless its long edge exceeds `max_size`.
        max_size: limit of the long edge in pixels; None means no limit.
        image_size: another short edge; the limit is multiplied by `image_size` / `short_edge`. If `short_edge` is
            None, the limit is 1333 / 800 of `image_size`, as in DETR. None keeps the lengths.
    """

    def __init__(
        self, short_edge: int | None = 800, max_size: int | None = 1333, *, image_size: int | None = None
    ) -> None:
        self.short_edge = short_edge if short_edge is None else _positive("short_edge", short_edge)
        self.max_size = max_size if max_size is None else _positive("max_size", max_size)
        if image_size is not None:
            _positive("image_size", image_size)
            limit, edge = (LIMIT, SHORT_EDGES[-1]) if self.short_edge is None else (self.max_size, self.short_edge)
            self.max_size = limit if limit is None else _scaled(limit, image_size / edge)
            self.short_edge = image_size

    def __call__(self, sample: Sample) -> Sample:
        short_edge = min(sample.size) if self.short_edge is None else self.short_edge
        return resize(sample, short_edge=short_edge, max_size=self.max_size)


class RandomFlip:
    """Mirror the image horizontally with a given probability."""

    def __init__(self, probability: float = 0.5) -> None:
        if not 0 <= probability <= 1:
            raise InputError(f"RandomFlip probability={probability}: expected a number from 0 to 1")
        self.probability = probability

    def __call__(self, sample: Sample) -> Sample:
        return flip(sample) if torch.rand(()) < self.probability else sample


class DetrAugmentation:
    """DETR's training augmentation: a flip; then, with equal probability, a resize, or a resize, a crop and a resize.

    The crop clips the boxes and removes those that become empty. All lengths are in pixels.

    Args:
        short_edges: the final resize draws its short edge from these.
        max_size: limit of the long edge for the final resize; None means no limit.
        crop_short_edges: the resize before a crop draws its short edge from these, without a limit on the long edge.
        crop_size: smallest and largest side of the crop; height and width are drawn independently.
        flip_probability: probability of the flip.
        image_size: all lengths are multiplied by `image_size` / largest of `short_edges`; None keeps them.
    """

    def __init__(
        self,
        *,
        short_edges: Sequence[int] = SHORT_EDGES,
        max_size: int | None = 1333,
        crop_short_edges: Sequence[int] = (400, 500, 600),
        crop_size: tuple[int, int] = (384, 600),
        flip_probability: float = 0.5,
        image_size: int | None = None,
    ) -> None:
        self.short_edges = _positive_all("short_edges", short_edges)
        self.max_size = max_size if max_size is None else _positive("max_size", max_size)
        self.crop_short_edges = _positive_all("crop_short_edges", crop_short_edges)
        self.crop_size = _positive_all("crop_size", crop_size)
        if len(self.crop_size) != 2 or self.crop_size[0] > self.crop_size[1]:
            raise InputError(f"crop_size={list(crop_size)}: expected [least, largest] side in pixels")
        self.flip = RandomFlip(flip_probability)
        if image_size is not None:
            factor = _positive("image_size", image_size) / max(self.short_edges)
            self.max_size = self.max_size if self.max_size is None else _scaled(self.max_size, factor)
            self.short_edges, self.crop_short_edges, self.crop_size = (
                tuple(_scaled(length, factor) for length in lengths)
                for lengths in (self.short_edges, self.crop_short_edges, self.crop_size)
            )

    def __call__(self, sample: Sample) -> Sample:
        sample = self.flip(sample)
        if torch.rand(()) < 0.5:
            sample = resize(sample, short_edge=_choice(self.crop_short_edges), max_size=None)
            sample = random_crop(sample, least=self.crop_size[0], largest=self.crop_size[1])
        return resize(sample, short_edge=_choice(self.short_edges), max_size=self.max_size)


def resize(sample: Sample, *, short_edge: int, max_size: int | None) -> Sample:
    """Resize with the aspect ratio kept (up to rounding), bilinear with antialiasing as in PIL; see `resized_size`."""
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
    """Mirror the image horizontally."""
    return replace(
        sample,
        pixels=transform.horizontal_flip(sample.pixels),
        boxes=transform.horizontal_flip(sample.boxes),
    )


def random_crop(sample: Sample, *, least: int, largest: int) -> Sample:
    """Cut out a random window.

    Args:
        sample: the image.
        least: smallest side of the window in pixels.
        largest: largest side of the window in pixels. Both limits are reduced to the size of a smaller image.

    Returns:
        The window, with the boxes inside; see `crop`.
    """
    height, width = sample.size
    crop_height = _randint(min(height, least), min(height, largest))
    crop_width = _randint(min(width, least), min(width, largest))
    top, left = _randint(0, height - crop_height), _randint(0, width - crop_width)
    return crop(sample, top=top, left=left, height=crop_height, width=crop_width)


def crop(sample: Sample, *, top: int, left: int, height: int, width: int) -> Sample:
    """Cut out a window inside the image (all in pixels). Boxes are clipped to it; those outside are removed."""
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
    """A uniform random number from `low` to `high`, both included."""
    return int(torch.randint(low, high + 1, ()))


def _choice(values: Sequence[int]) -> int:
    return values[_randint(0, len(values) - 1)]


def _scaled(length: int, factor: float) -> int:
    return max(1, round(length * factor))


def _positive(name: str, value: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{name}={value!r}: expected a whole number of pixels of at least 1")
    return value


def _positive_all(name: str, values: Sequence[int]) -> tuple[int, ...]:
    if not values:
        raise InputError(f"{name}={values!r}: expected at least one number")
    return tuple(_positive(name, value) for value in values)
