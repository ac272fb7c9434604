"""Turns the images that a user gives into samples, and puts samples of one size into batches."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from crossstage.data.batch import Sample, bounding_boxes
from crossstage.data.pixels import as_rgb, read_image
from crossstage.errors import InputError

Picture = str | Path | Image.Image | np.ndarray | Tensor
HELD = 8  # batches of pictures that wait, at most, until there are enough of one size


def is_picture(value: object) -> bool:
    """Whether a value is one image, and not several."""
    return isinstance(value, str | os.PathLike | Image.Image | np.ndarray | Tensor)


def pixels_of(image: Picture, name: str) -> Tensor:
    """The pixels of an image.

    Args:
        image: a file, which is turned by its EXIF orientation; one of Pillow's images, which is not turned, so that
            the boxes fit its `size`, and read by its range as a file is; an array uint8 [H, W, 3]; or a tensor uint8
            [3, H, W]. Arrays and tensors are RGB.
        name: what messages call the image.

    Returns:
        uint8 [3, H, W] on the CPU, RGB.

    Raises:
        InputError: if the file cannot be read, or the type, shape or dtype is another.
    """
    if isinstance(image, str | os.PathLike):
        return read_image(Path(image).expanduser())
    if isinstance(image, Image.Image) and all(image.size):
        return as_rgb(image, name)
    if isinstance(image, np.ndarray):
        expected, fits = "an array of uint8 [H, W, 3], RGB", image.dtype == np.uint8 and image.shape[2:] == (3,)
        found = f"an array of {image.dtype} {list(image.shape)}"
        pixels = torch.from_numpy(np.array(image, order="C")).movedim(-1, 0) if fits else torch.zeros(0)
    elif isinstance(image, Tensor):
        expected, fits = "a tensor of uint8 [3, H, W], RGB", image.dtype == torch.uint8 and image.shape[:-2] == (3,)
        found, pixels = f"a tensor of {image.dtype} {list(image.shape)}", image
    else:
        expected, fits, pixels = "a path, one of Pillow's images, an array or a tensor", False, torch.zeros(0)
        found = type(image).__name__
    if not fits or not pixels.numel():
        raise InputError(f"{name} is {found}; expected {expected}; give several images as a list")
    return pixels.cpu()


def as_sample(pixels: Tensor) -> Sample:
    """A sample without annotations from uint8 [3, H, W]."""
    size = (pixels.shape[-2], pixels.shape[-1])
    boxes, labels = bounding_boxes(torch.zeros(0, 4), size), torch.zeros(0, dtype=torch.int64)
    return Sample(pixels, boxes, labels, image_id=0, original_size=size)


def in_batches(samples: Iterable[Sample], most: int) -> Iterator[list[tuple[int, Sample]]]:
    """Put samples of equal size together, so that no batch is padded and no result depends on other images.

    Args:
        samples: the images as the network gets them.
        most: number of images per batch.

    Yields:
        Batches of (position in `samples`, sample). At most `HELD` times `most` samples are held at a time.
    """
    waiting: dict[tuple[int, int], list[tuple[int, Sample]]] = defaultdict(list)
    for index, sample in enumerate(samples):
        waiting[sample.size].append((index, sample))
        if len(waiting[sample.size]) == most:
            yield waiting.pop(sample.size)
        elif sum(map(len, waiting.values())) == HELD * most:
            yield waiting.pop(max(waiting, key=lambda size: len(waiting[size])))
    yield from waiting.values()
