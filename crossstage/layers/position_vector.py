"""AdaMixer's boxes (CVPR 2022, section 3.1): a positional vector (x, y, z, r) in pixels of the network input.

(x, y) is the centre, z = log2 sqrt(width * height) the scale and r = log2(height / width) the shape, so that
width = 2^(z - r / 2) and height = 2^(z + r / 2). Features are sampled at (x, y, z), where z chooses the level.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from crossstage.layers.boxes import box_area
from crossstage.layers.position import sine_embedding


def to_position_vectors(boxes: Tensor, image_sizes: Tensor, *, least_side: float = 0.0) -> Tensor:
    """Position vectors of normalised boxes.

    Args:
        boxes: normalised cxcywh, [B, N, 4].
        image_sizes: (width, height) of each image in pixels, [B, 2].
        least_side: pixels added to each side before its logarithm.

    Returns:
        (x, y, z, r), [B, N, 4]; finite even for a side of length 0.
    """
    extent = image_sizes[:, None]
    return _vectors(boxes[..., :2] * extent, boxes[..., 2:] * extent, least_side)


def corners_to_vectors(corners: Tensor, *, least_side: float = 0.0) -> Tensor:
    """Position vectors of boxes that are given by their corners.

    Args:
        corners: (x1, y1, x2, y2) in pixels, [..., 4]. Swapped corners give the same vector as sorted ones.
        least_side: pixels added to each side before its logarithm.

    Returns:
        (x, y, z, r), [..., 4].
    """
    low, high = corners[..., :2], corners[..., 2:]
    return _vectors((low + high) / 2, (high - low).abs(), least_side)


def _vectors(centre: Tensor, size: Tensor, least_side: float) -> Tensor:
    """Centre and size in pixels, two [..., 2] -> (x, y, z, r) [..., 4]."""
    # The clamp keeps the logarithm of a side of length 0 finite.
    width, height = (size + least_side).clamp(min=torch.finfo(size.dtype).tiny).log2().unbind(-1)
    return torch.cat([centre, torch.stack([(width + height) / 2, height - width], dim=-1)], dim=-1)


def vectors_to_corners(vectors: Tensor) -> Tensor:
    """(x, y, z, r) [..., 4] -> corners (x1, y1, x2, y2) in pixels, [..., 4]."""
    centre, half = vectors[..., :2], vector_sizes(vectors) / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def vector_sizes(vectors: Tensor) -> Tensor:
    """(x, y, z, r) [..., 4] -> (width, height) in pixels, [..., 2]."""
    scale, half_shape = vectors[..., 2], vectors[..., 3] / 2
    return torch.stack([scale - half_shape, scale + half_shape], dim=-1).exp2()


def to_normalised_boxes(vectors: Tensor, image_sizes: Tensor) -> Tensor:
    """(x, y, z, r) [..., B, N, 4] -> normalised cxcywh [..., B, N, 4]; image_sizes: [B, 2], (width, height)."""
    return torch.cat([vectors[..., :2], vector_sizes(vectors)], dim=-1) / image_sizes.repeat(1, 2)[:, None]


def position_vector_embedding(vectors: Tensor, embed_dim: int) -> Tensor:
    """Sine embedding of (x, y, z, r): [..., 4] -> [..., embed_dim], a quarter of the channels per coordinate.

    x and y are divided by 1000 pixels first.
    """
    scaled = torch.cat([vectors[..., :2] / 1000, vectors[..., 2:]], dim=-1)
    return sine_embedding(scaled, embed_dim // 4, dtype=torch.float32).flatten(-2)


Moves = Callable[[Tensor, Tensor], Tensor]
"""How offsets move a box: vectors [..., 4], offsets [..., 4] -> vectors [..., 4]."""


class IsotropicMoves:
    """AdaMixer's refinement: the centre moves in units of 2^z on both axes; the offsets of z and r are added."""

    def __call__(self, vectors: Tensor, offsets: Tensor) -> Tensor:
        """Vectors [..., 4] moved by offsets [..., 4]."""
        return torch.cat([vectors[..., :2] + offsets[..., :2] * vectors[..., 2:3].exp2(), _moved(vectors, offsets)], -1)


class SideMoves:
    """StageInteractor's refinement: as AdaMixer's, but the centre moves in units of the box's width and height."""

    def __call__(self, vectors: Tensor, offsets: Tensor) -> Tensor:
        """Vectors [..., 4] moved by offsets [..., 4]."""
        return torch.cat([vectors[..., :2] + offsets[..., :2] * vector_sizes(vectors), _moved(vectors, offsets)], -1)


def _moved(vectors: Tensor, offsets: Tensor) -> Tensor:
    return vectors[..., 2:] + offsets[..., 2:]


def overlap_with_row(corners: Tensor, areas: Tensor | None = None) -> Tensor:
    """Share of the row's box that the column's box covers (AdaMixer, eq. 3).

    Args:
        corners: (x1, y1, x2, y2) in pixels, [B, N, 4]. Noise may have swapped them; areas are therefore clamped to
            at least 1e-6 square pixels and shared sides to at least 0.
        areas: areas of the boxes, [B, N]. None computes them from the corners, which is less exact for a small box
            far from the origin.

    Returns:
        [B, N, N]; entry (i, j) is the share of box i that box j covers.
    """
    low, high = corners[..., :2], corners[..., 2:]
    shared = torch.minimum(high[:, :, None], high[:, None]) - torch.maximum(low[:, :, None], low[:, None])
    width, height = shared.clamp(min=0).unbind(-1)
    areas = box_area(corners) if areas is None else areas
    return width * height / areas.clamp(min=1e-6)[..., None]
