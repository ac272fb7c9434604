"""Looks at every image file of a data set: is it there, is it readable, has it the size that the JSON says."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from crossstage.data.coco import PREFLIGHT_THREADS, CocoDetection
from crossstage.data.pixels import orientation
from crossstage.errors import InputError

QUARTER_TURN = 5  # from this EXIF orientation on, height and width are exchanged


@dataclass(frozen=True)
class ImageFile:
    """What is found out about the file of an image.

    Attributes:
        index: position of the image in the dataset.
        problem: why it cannot be used, or "".
        digest: hash of the content of the file; "" if it cannot be read.
        turn: EXIF orientation, 1 to 8.
    """

    index: int
    problem: str
    digest: str
    turn: int


def look_at_files(dataset: CocoDetection) -> Iterator[ImageFile]:
    """Decode the images of a dataset in several threads, and yield what is found, in their order."""

    def look(index: int) -> ImageFile:
        path = dataset.path(index)
        try:
            digest = hashlib.blake2b(path.read_bytes()).hexdigest()
        except OSError:
            digest = ""
        try:
            dataset.check_image(index)
        except InputError as error:
            return ImageFile(index, str(error), digest, 1)
        return ImageFile(index, "", digest, orientation(path))

    with ThreadPoolExecutor(PREFLIGHT_THREADS) as pool:
        yield from pool.map(look, range(len(dataset)))
