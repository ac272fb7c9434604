"""AdaMixer's boxes (CVPR 2022, section 3.1): a positional vector (x, y, z, r) in pixels of the network input.

(x, y) is the centre, z = log2 sqrt(width * height) the scale and r = log2(height / width) the shape, so that
width = 2^(z - r / 2) and height = 2^(z + r / 2). Features are sampled at (x, y, z), where z chooses the level.
"""

import torch
from torch import Tensor

from crossstage.layers.position import sine_embedding


def to_position_vectors(boxes: Tensor, image_sizes: Tensor) -> Tensor:
    """Normalised cxcywh [B, N, 4] of images of (width, height) [B, 2] pixels -> (x, y, z, r) [B, N, 4].

    A side of no length has the least length that its dtype knows, so that its logarithm is a number.
    """
    extent = image_sizes[:, None]
    centre, size = boxes[..., :2] * extent, (boxes[..., 2:] * extent).clamp(min=torch.finfo(boxes.dtype).tiny)
    width, height = size.log2().unbind(-1)
    return torch.cat([centre, torch.stack([(width + height) / 2, height - width], dim=-1)], dim=-1)


def vector_sizes(vectors: Tensor) -> Tensor:
    """(x, y, z, r) [..., 4] -> (width, height) in pixels, [..., 2]."""
    scale, half_shape = vectors[..., 2], vectors[..., 3] / 2
    return torch.stack([scale - half_shape, scale + half_shape], dim=-1).exp2()


def to_normalised_boxes(vectors: Tensor, image_sizes: Tensor) -> Tensor:
    """(x, y, z, r) [..., B, N, 4] -> normalised cxcywh [..., B, N, 4]; image_sizes: [B, 2], (width, height)."""
    return torch.cat([vectors[..., :2], vector_sizes(vectors)], dim=-1) / image_sizes.repeat(1, 2)[:, None]


def position_vector_embedding(vectors: Tensor, embed_dim: int) -> Tensor:
    """Sine embedding of (x, y, z, r): [..., 4] -> [..., embed_dim], a quarter for each; x and y count 1000 pixels."""
    scaled = torch.cat([vectors[..., :2] / 1000, vectors[..., 2:]], dim=-1)
    return sine_embedding(scaled, embed_dim // 4, dtype=torch.float32).flatten(-2)


class IsotropicMoves:
    """AdaMixer's refinement: the centre moves in units of 2^z on both axes; z and r by what is predicted."""

    def __call__(self, vectors: Tensor, offsets: Tensor) -> Tensor:
        """Vectors [..., 4] moved by offsets [..., 4]."""
        return torch.cat([vectors[..., :2] + offsets[..., :2] * vectors[..., 2:3].exp2(), _moved(vectors, offsets)], -1)


class SideMoves:
    """StageInteractor's refinement: the centre moves in units of the box's width and height."""

    def __call__(self, vectors: Tensor, offsets: Tensor) -> Tensor:
        """Vectors [..., 4] moved by offsets [..., 4]."""
        return torch.cat([vectors[..., :2] + offsets[..., :2] * vector_sizes(vectors), _moved(vectors, offsets)], -1)


def _moved(vectors: Tensor, offsets: Tensor) -> Tensor:
    return vectors[..., 2:] + offsets[..., 2:]


def overlap_with_row(vectors: Tensor) -> Tensor:
    """Share of box i that box j covers, [B, N (i), N (j)], of (x, y, z, r) [B, N, 4] (AdaMixer, eq. 3)."""
    centre, half = vectors[..., :2], vector_sizes(vectors) / 2
    low, high = (centre - half), (centre + half)
    shared = torch.minimum(high[:, :, None], high[:, None]) - torch.maximum(low[:, :, None], low[:, None])
    width, height = shared.clamp(min=0).unbind(-1)
    area = (2 * half).prod(-1).clamp(min=1e-6)
    return width * height / area[..., None]
