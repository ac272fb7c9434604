"""Images and boxes of a COCO-format dataset."""

from __future__ import annotations

import logging
import stat
import unicodedata
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from crossstage.data.batch import Sample, bounding_boxes
from crossstage.data.classes import differences, with_classes
from crossstage.data.coco_json import read_coco
from crossstage.data.objects import findings, used_objects
from crossstage.data.pixels import orientation, read_image
from crossstage.errors import InputError

logger = logging.getLogger("crossstage.data")

PREFLIGHT_THREADS = 8  # more threads than cores are useful here, because they wait for the disk


class CocoDetection(Dataset):
    """The images of a COCO-format dataset; `dataset[i]` is the `Sample` of the i-th image.

    Crowd regions are left out (evaluation reads the JSON itself). Boxes are clipped to the image. Boxes without area or
    outside the image are left out; one line of the log counts them. Further lines tell what looks wrong with the
    annotations (see `crossstage.data.objects`).

    Args:
        json_file: the annotations.
        image_root: the folder of the images.
        keep_empty: whether images without a box stay in the dataset.
        classes: the class names by class index, to which those of the file are matched. None takes the file's classes,
            in the order of ascending category ids.

    Attributes:
        class_names: name of each class, by class index.
        category_ids: category id of each class, by class index; None for a class that the file does not list.
        image_sizes: int64 [I, 2], (height, width) of the I images.

    Raises:
        InputError: if the JSON does not follow COCO's format, or its classes do not fit; names the file and the record.
    """

    def __init__(
        self,
        json_file: str | Path,
        image_root: str | Path,
        *,
        keep_empty: bool = True,
        classes: Sequence[str] | None = None,
    ) -> None:
        self.json_file = str(json_file)
        self.image_root = Path(image_root).expanduser()
        self.keep_empty = keep_empty
        as_written = read_coco(json_file)
        contents = with_classes(as_written, classes)
        if not self.image_root.is_dir():
            raise InputError(f"{image_root}: no such folder; expected the images of {json_file} there")
        self.class_names = contents.class_names
        self.category_ids = contents.category_ids
        objects = used_objects(contents)
        counts = np.diff(objects.first)
        kept = np.arange(len(counts)) if keep_empty else np.nonzero(counts)[0]
        if not len(kept):
            raise InputError(f"{json_file}: no image has a box; expected some, or keep_empty=True")
        self.image_sizes = contents.sizes[kept]
        # Forked workers share the memory of arrays. A list of records would be copied, because reading an object
        # changes its reference count.
        self._image_ids = contents.image_ids[kept]
        self._file_names = [contents.file_names[row] for row in kept]
        self._first, self._counts = objects.first[kept], counts[kept]
        self._boxes_xyxy, self._labels = objects.boxes_xyxy, objects.labels
        logger.info(
            "%s: %d images, %d boxes, %d classes; left out: %d crowd regions, %d images without boxes",
            json_file, len(self), len(objects.labels), self.num_classes, objects.crowd, len(counts) - len(kept),
        )  # fmt: skip
        for line in differences(as_written, classes):
            logger.info("%s: %s", json_file, line)
        for line in findings(contents, objects):
            logger.warning("%s: %s", json_file, line)

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

    def first_images(self) -> dict[int, int]:
        """The index of the first image with an object of each class that occurs, by class index."""
        owner = np.repeat(np.arange(len(self)), self._counts)
        rows = np.concatenate([np.arange(first, first + n) for first, n in zip(self._first, self._counts, strict=True)])
        labels, first = np.unique(self._labels[rows.astype(np.int64)], return_index=True)
        return dict(zip(labels.tolist(), owner[first].tolist(), strict=True))

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

    def check_image(self, index: int) -> None:
        """Raise InputError if the i-th image file is missing or empty, cannot be decoded, or has another size."""
        self._check_file(index)
        self._read(index)

    def _check_file(self, index: int) -> None:
        path = self.path(index)
        try:
            status = path.stat()
        except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
            raise InputError(
                f"{path}: {self._named(index)} is missing ({getattr(error, 'strerror', error)}){_likely_cause(path)}"
            ) from error
        if stat.S_ISDIR(status.st_mode):
            raise InputError(f"{path}: {self._named(index)} is a folder; expected an image file")
        if not status.st_size:
            raise InputError(f"{path}: {self._named(index)} has zero bytes; copy it again")

    def _read(self, index: int) -> Tensor:
        try:
            pixels = read_image(self.path(index))
        except InputError as error:
            raise InputError(f"{error} ({self._named(index)})") from error
        height, width = self.image_sizes[index]
        if pixels.shape[-2:] != (height, width):
            cause = "its boxes would be misplaced"
            turn = orientation(self.path(index))
            if turn >= 5 and (width, height) == pixels.shape[-2:]:
                cause = (
                    f"the file's EXIF orientation {turn} turns the picture, and the JSON has the size before the turn; "
                    "write the size and boxes of the turned picture, or remove the orientation from the file"
                )
            raise InputError(
                f"{self.path(index)}: is {pixels.shape[-1]} x {pixels.shape[-2]} pixels, but {self._named(index)} "
                f"has width {width} and height {height}; {cause}"
            )
        return pixels

    def _named(self, index: int) -> str:
        return f"image {self._image_ids[index]} of {self.json_file}"


def _likely_cause(missing: Path) -> str:
    """Why a file may be missing that a JSON names, with the remedy; "" if that is not known."""
    if "\\" in missing.name:
        return "; the name has backslashes, as paths of Windows have: write / in the JSON"

    def alike(name: str) -> str:
        return unicodedata.normalize("NFC", name).casefold()

    there = missing.parent.iterdir() if missing.parent.is_dir() else ()
    if found := next((path.name for path in there if alike(path.name) == alike(missing.name)), None):
        return (
            f"; the folder has {found!a}, which differs in upper and lower case or in the form of Unicode: rename one"
        )
    return ""


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
