"""Decodes image files of any kind into uint8 RGB. What cannot be read by its range is refused, never clipped.

- Greyscale with more than 8 bits (PNG, TIFF: modes I;16, I, F): floats up to 1 are taken as 0 to 1. All other values
  are divided by the largest number of 8, 10, 12, 14 or 16 bits, the fewest that hold the largest value of the image:
  files do not say how many of their 16 bits a camera used. If not all are used, the log says so once. TIFF files whose
  white is 0 are inverted.
- Colour with 16 bits per channel: Pillow reads the upper 8 bits. If these are empty, the file is refused, and so is a
  TIFF file that stores such channels one after another, because Pillow would mix up their bytes.
- Transparency is ignored: the colours below it are read, as OpenCV does. The log says so once.
- Of a file with several pictures (TIFF, GIF, WebP), the first is read. The log says so once.
- The EXIF orientation is applied. Palettes, CMYK, YCbCr and black-and-white images are converted by Pillow.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from crossstage.errors import InputError

logger = logging.getLogger("crossstage.data")

DEPTHS = (8, 10, 12, 14, 16)
FEWEST_LEVELS = 64  # of 256; a colour image of 16 bits that has fewer uses only its lower bits
ORIENTATION = 0x0112  # the EXIF tag
BITS, PHOTOMETRIC, PLANAR, SAMPLE_FORMAT = 258, 262, 284, 339  # tags of TIFF
WHITE_IS_ZERO, SEPARATE, SIGNED = 0, 2, 2  # values of the last three
OVERSHOOT = 1.1  # floats that are meant to be in [0, 1] may be this large after resampling
LIMIT = "CROSSSTAGE_MAX_MEGAPIXELS"
_told: set[str] = set()


def read_image(path: str | Path) -> Tensor:
    """Decode an image file into RGB, uint8 [3, H, W], rotated according to its EXIF orientation.

    Raises:
        InputError: if the file is missing, empty, truncated, too large, not an image, or holds values whose range is
            unknown; names the file.
    """
    _set_limit(os.environ.get(LIMIT))
    try:
        # Given a path, Pillow maps uncompressed TIFF files into memory, and then forgets to turn them.
        with open(path, "rb") as file, Image.open(file) as image:
            _check_form(image, path)
            deep = _has_sixteen_bits(image)
            ImageOps.exif_transpose(image, in_place=True)
            return as_rgb(image, path, deep=deep)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such image file") from error
    except Image.DecompressionBombError as error:
        raise InputError(_too_large(path)) from error
    except UnidentifiedImageError as error:
        raise InputError(
            f"{path}: cannot be read as an image: it is none, or of a kind that Pillow does not read (such as HEIC or "
            "float colours), or damaged; convert it to PNG or JPEG with 8 bits, or copy it again"
        ) from error
    # Which of these PIL raises for a damaged file depends on the format and the damage.
    except (OSError, ValueError, SyntaxError) as error:
        reason = " ".join(re.sub(r" <_io\.BufferedReader name=.*>", "", str(error)).split())
        problem = f"cannot be read as an image, it may be truncated ({reason})"
        raise InputError(f"{path}: {problem}; copy it again") from error


def orientation(path: str | Path) -> int:
    """The EXIF orientation of an image file, 1 to 8; 1 if it has none or cannot be read."""
    try:
        with Image.open(path) as image:
            value = image.getexif().get(ORIENTATION, 1)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return 1
    return value if value in range(1, 9) else 1


def _check_form(image: Image.Image, path: str | Path) -> None:
    """Refuse a TIFF file that Pillow would read wrongly; tell if a file has more than one picture."""
    tags = _tags(image)
    if tags.get(PLANAR) == SEPARATE and max(tags.get(BITS, (8,))) > 8 and len(tags[BITS]) > 1:
        raise InputError(
            f"{path}: is a TIFF file that stores channels of {max(tags[BITS])} bits one after another, which Pillow "
            "reads wrongly; save it with interleaved channels, or with 8 bits"
        )
    if image.format in ("TIFF", "GIF", "WEBP", "PNG") and getattr(image, "is_animated", False):
        _tell_once("pages", f"{path}: has several pictures (pages or frames), of which the first is read")


def as_rgb(image: Image.Image, path: str | Path, *, deep: bool = False) -> Tensor:
    """Convert one of Pillow's images, without turning it, as the head of this file says.

    Args:
        image: the image.
        path: its file, or what messages call it.
        deep: whether the file has 16 bits per channel.

    Returns:
        RGB, uint8 [3, H, W].

    Raises:
        InputError: if the image holds values whose range is unknown.
    """
    if image.mode.startswith("I") or image.mode == "F":
        tags = _tags(image)
        is_signed = tags.get(SAMPLE_FORMAT) == (SIGNED,) and tags.get(BITS) == (16,)
        grey = torch.from_numpy(
            _eight_bits(np.asarray(image), path, depths=(*DEPTHS[:-1], 15) if is_signed else DEPTHS)
        )
        if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:  # Pillow inverts pictures of 8 bits alone
            grey = 255 - grey
        return grey.expand(3, -1, -1).contiguous()
    if image.mode == "LAB":
        raise InputError(f"{path}: is an image in CIELAB, whose colours are not read; convert it to RGB")
    if image.mode in ("P", "PA", "RGBa", "La") and (image.mode != "P" or "transparency" in image.info):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if "A" in image.mode and np.asarray(image.getchannel("A")).min() < 255:
        _tell_once("alpha", f"{path}: transparent pixels are read with the colours that the file has below them")
    pixels = pil_to_tensor(image.convert("RGB"))
    if deep and int(pixels.max()) < FEWEST_LEVELS:
        raise InputError(
            f"{path}: has 16 bits per channel and uses only the lower ones (the largest value is below "
            f"{FEWEST_LEVELS * 256}), of which 8 would be lost; scale it to 8 bits, or to all 16"
        )
    return pixels


def _eight_bits(values: np.ndarray, path: str | Path, *, depths: Sequence[int] = DEPTHS) -> np.ndarray:
    """Greyscale values [H, W] of any type, scaled to uint8 by their range, which is one of `depths` in bits."""
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)) or low < 0:
        raise InputError(f"{path}: has values from {low:g} to {high:g}; expected no negative, NaN or infinite ones")
    if np.issubdtype(values.dtype, np.floating) and high <= OVERSHOOT:
        largest = 1
    elif (bits := next((bits for bits in depths if high < 2**bits), None)) is not None:
        largest = 2**bits - 1
        if bits not in (8, depths[-1]) or (bits == 8 and (values.dtype == np.uint16 or high < 128)):
            _tell_once(
                f"{bits} bits",
                f"{path}: an image of {values.dtype} values up to {high:g} is read as {bits} bits per pixel (the range "
                "is that of each image; if some are only dark, scale all to 8 bits first)",
            )
    else:
        raise InputError(f"{path}: has values up to {high:g}; expected at most 65535, or 0 to 1; scale it to 8 bits")
    return (np.minimum(values.astype(np.float64) / largest, 1) * 255 + 0.5).astype(np.uint8)


def _tags(image: Image.Image) -> Mapping[int, Any]:
    """The tags of an opened TIFF file; empty for other formats."""
    return getattr(image, "tag_v2", {})


def _has_sixteen_bits(image: Image.Image) -> bool:
    """Whether the file of an opened image has 16 bits per channel, of which Pillow will keep 8."""
    return any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))


@lru_cache(maxsize=1)
def _set_limit(megapixels: str | None) -> None:
    """Set Pillow's limit; None keeps its own. Pillow warns above the number and refuses twice as many pixels."""
    if megapixels is None:
        return
    try:
        Image.MAX_IMAGE_PIXELS = max(1, round(float(megapixels) * 1e6))
    except (ValueError, OverflowError) as error:
        raise InputError(f"{LIMIT}={megapixels}: expected a number, such as 400") from error


def _too_large(path: str | Path) -> str:
    allowed = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
    return (
        f"{path}: has more than {allowed:.0f} megapixels, Pillow's limit that protects against files made to fill the "
        f"memory; if you trust the file, set the environment variable {LIMIT} to its megapixels, e.g. "
        f"{LIMIT}={math.ceil(allowed * 2)}, or make it smaller"
    )


def _tell_once(kind: str, line: str) -> None:
    if kind not in _told:
        _told.add(kind)
        logger.warning(line)
