"""The images of a batch as pictures, and boxes in their pixels."""

from __future__ import annotations

from PIL import Image
from torch import Tensor

from crossstage.layers.boxes import cxcywh_to_xyxy
from crossstage.structures import ImageBatch
from crossstage.visualize import Rectangle


def picture_of(batch: ImageBatch, index: int) -> Image.Image:
    """One image without its padding, in the size of the network's input."""
    height, width = batch.sizes[index]
    return Image.fromarray(batch.pixels[index, :, :height, :width].permute(1, 2, 0).cpu().numpy())


def corners_in(picture: Image.Image, boxes: Tensor) -> list[Rectangle]:
    """Normalised boxes, cxcywh [D, 4], as corners in the pixels of a picture."""
    extent = boxes.new_tensor([picture.width, picture.height] * 2)
    return [(x0, y0, x1, y1) for x0, y0, x1, y1 in (cxcywh_to_xyxy(boxes) * extent).tolist()]
