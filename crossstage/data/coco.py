"""Images and boxes of a COCO-format dataset."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2.functional import pil_to_tensor

from crossstage.data.batch import Sample, bounding_boxes
from crossstage.data.coco_json import CocoContents, read_coco
from crossstage.errors import InputError

logger = logging.getLogger("crossstage.data")

PREFLIGHT_THREADS = 8  # more threads than cores are useful here, because they wait for the disk


class CocoDetection(Dataset):
    """The images of a COCO-format dataset; `dataset[i]` is the `Sample` of the i-th image.

    Class indices are contiguous, in the order of ascending category ids. Crowd regions are left out (evaluation reads
    the JSON itself). Boxes are clipped to the image. Boxes without area or outside the image are left out; one line
    of the log counts them.

    Args:
        json_file: the annotations.
        image_root: the folder of the images.
        keep_empty: whether images without a box stay in the dataset.

    Attributes:
        class_names: name of each class, by class index.
        category_ids: category id of each class, by class index.
        image_sizes: int64 [I, 2], (height, width) of the I images.

    Raises:
        InputError: if the JSON does not follow COCO's format; names the file and the record.
    """

    def __init__(self, json_file: str | Path, image_root: str | Path, *, keep_empty: bool = True) -> None:
        self.json_file = str(json_file)
        self.image_root = Path(image_root)
        self.keep_empty = keep_empty
        contents = read_coco(json_file)
        if not self.image_root.is_dir():
            raise InputError(f"{image_root}: no such folder; expected the images of {json_file} there")
        self.class_names = contents.class_names
        self.category_ids = contents.category_ids
        counts = np.diff(contents.first)
        kept = np.arange(len(counts)) if keep_empty else np.nonzero(counts)[0]
        if not len(kept):
            raise InputError(f"{json_file}: no image has a box; expected some, or keep_empty=True")
        self.image_sizes = contents.sizes[kept]
        # Forked workers share the memory of arrays. A list of records would be copied, because reading an object
        # changes its reference count.
        self._image_ids = contents.image_ids[kept]
        self._file_names = [contents.file_names[row] for row in kept]
        self._first, self._counts = contents.first[kept], counts[kept]
        self._boxes_xyxy, self._labels = contents.boxes_xyxy, contents.labels
        _report(self.json_file, len(self), contents, without_boxes=len(counts) - len(kept))

    @property
    def num_classes(self) -> int:
        """The number of classes K."""
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self._file_names)

    def __getitem__(self, index: int) -> Sample:
        pixels = self._read(index)
        rows = slice(self._first[index], self._first[index] + self._counts[index])
        size = (pixels.shape[-2], pixels.shape[-1])
        return Sample(
            pixels=pixels,
            boxes=bounding_boxes(torch.from_numpy(self._boxes_xyxy[rows].copy()), size),
            labels=torch.from_numpy(self._labels[rows].copy()),
            image_id=int(self._image_ids[index]),
            original_size=size,
        )

    def path(self, index: int) -> Path:
        """The i-th image file."""
        return self.image_root / self._file_names[index]

    def preflight(self, *, decode_megapixels: float = 200) -> None:
        """Check the image files before a run starts: all must exist and not be empty, and some are decoded.

        Every k-th image is decoded. An image that cannot be read later, in a worker, raises the same error.

        Args:
            decode_megapixels: how much is decoded. 200 takes about two seconds, for about 650 images of COCO or
                12 000 images of 128 x 128 pixels.

        Raises:
            InputError: names the first file that cannot be used.
        """
        _in_threads(self._check_file, range(len(self)))
        megapixels = float(self.image_sizes.prod(1).sum()) / 1e6
        _in_threads(self._read, range(0, len(self), max(1, round(megapixels / decode_megapixels))))

    def _check_file(self, index: int) -> None:
        try:
            size = self.path(index).stat().st_size
        except OSError as error:
            raise InputError(f"{self.path(index)}: {self._named(index)} is missing ({error.strerror})") from error
        if not size:
            raise InputError(f"{self.path(index)}: {self._named(index)} has zero bytes; copy it again")

    def _read(self, index: int) -> Tensor:
        try:
            pixels = read_image(self.path(index))
        except InputError as error:
            raise InputError(f"{error} ({self._named(index)})") from error
        height, width = self.image_sizes[index]
        if pixels.shape[-2:] != (height, width):
            raise InputError(
                f"{self.path(index)}: is {pixels.shape[-1]} x {pixels.shape[-2]} pixels, but {self._named(index)} "
                f"has width {width} and height {height}; its boxes would be misplaced"
            )
        return pixels

    def _named(self, index: int) -> str:
        return f"image {self._image_ids[index]} of {self.json_file}"


def read_image(path: str | Path) -> Tensor:
    """Decode an image file into RGB, uint8 [3, H, W], rotated according to its EXIF orientation.

    Raises:
        InputError: if the file is missing, empty, truncated or not an image; names the file.
    """
    try:
        with Image.open(path) as image:
            ImageOps.exif_transpose(image, in_place=True)
            return pil_to_tensor(image.convert("RGB"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such image file") from error
    # Which of these PIL raises for a damaged file depends on the format and the damage.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).replace(f" {str(path)!r}", "").split())
        problem = f"cannot be read as an image, it may be truncated ({reason})"
        raise InputError(f"{path}: {problem}; copy it again") from error


def _in_threads(check: Callable[[int], object], indices: range) -> None:
    """Run `check` on every index in several threads, and raise the error of the lowest index.

    Each thread gets chunks of indices, because one future per index would take too much time.
    """

    def check_all(chunk: range) -> None:
        for index in chunk:
            check(index)

    length = max(1, min(256, len(indices) // PREFLIGHT_THREADS))
    with ThreadPoolExecutor(PREFLIGHT_THREADS) as pool:
        chunks = (indices[start : start + length] for start in range(0, len(indices), length))
        for future in [pool.submit(check_all, chunk) for chunk in chunks]:
            try:
                future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _report(json_file: str, num_images: int, contents: CocoContents, *, without_boxes: int) -> None:
    logger.info(
        "%s: %d images, %d boxes, %d classes; left out: %d crowd regions, %d images without boxes",
        json_file, num_images, len(contents.labels), len(contents.class_names), contents.crowd, without_boxes,
    )  # fmt: skip
    if contents.zero_area or contents.outside:
        logger.warning(
            "%s: dropped %d boxes without area and %d outside their image",
            json_file, contents.zero_area, contents.outside,
        )  # fmt: skip
