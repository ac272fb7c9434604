"""From feature maps to the tokens of a memory: flattened, with what every query source and decoder may read of them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from crossstage.structures import FeaturePyramid, Levels, Memory


def pyramid_memory(pyramid: FeaturePyramid, positions: Sequence[Tensor] | None = None) -> Memory:
    """The memory of a pyramid before any layer has read it, with every field filled.

    Args:
        pyramid: L maps [B, C, h, w] with their masks and the sizes of the images.
        positions: position embeddings of the cells, L tensors [B, C, h, w]. None: zeros, which take no memory.

    Returns:
        Memory of M = sum of h * w tokens. The sizes of levels and the valid ratios have the dtype of the positions
        (without them, of the image sizes), not of the maps, which are bfloat16 under autocast.
    """
    tokens = flat(pyramid.maps)
    like = pyramid.image_sizes if positions is None else positions[0]
    return Memory(
        tokens=tokens,
        mask=torch.cat([mask.flatten(1) for mask in pyramid.masks], dim=1),
        levels=Levels.of(pyramid.shapes, like=like),
        valid_ratios=valid_ratios(pyramid.masks, dtype=like.dtype),
        positions=_no_positions(tokens) if positions is None else flat(positions),
        image_sizes=pyramid.image_sizes,
    )


def unpadded_memory(tokens: Tensor, levels: Levels) -> Memory:
    """A memory of tokens alone, to run a part without an encoder (in tests and benchmarks).

    Args:
        tokens: [B, M, C].
        levels: their levels.

    Returns:
        Memory without padding, positions of zeros, and images as large as the finest level, a pixel per cell.
    """
    batch, count, _ = tokens.shape
    return Memory(
        tokens=tokens,
        mask=torch.zeros(batch, count, dtype=torch.bool, device=tokens.device),
        levels=levels,
        valid_ratios=levels.sizes.new_ones(batch, len(levels.shapes), 2),
        positions=_no_positions(tokens),
        image_sizes=levels.sizes[:1].expand(batch, -1),
    )


def _no_positions(tokens: Tensor) -> Tensor:
    """Zeros in the shape of the tokens, [B, M, C], that take no memory."""
    return tokens.new_zeros(()).expand_as(tokens)


def flat(maps: Sequence[Tensor]) -> Tensor:
    """Maps as one sequence, level by level and row-major inside a level: L [B, C, h, w] -> [B, M, C]."""
    return torch.cat([level.flatten(2).transpose(1, 2) for level in maps], dim=1)


def valid_ratios(masks: tuple[Tensor, ...], *, dtype: torch.dtype) -> Tensor:
    """Unpadded share (width, height) of each level by its first row and column: L bool [B, h, w] -> [B, L, 2]."""
    firsts = [((~mask[:, 0]).to(dtype), (~mask[:, :, 0]).to(dtype)) for mask in masks]
    return torch.stack([torch.stack([row.mean(-1), column.mean(-1)], dim=-1) for row, column in firsts], dim=1)


def token_places(ratios: Tensor, levels: Levels) -> Tensor:
    """The centre of each token's cell, (x, y) normalised by the unpadded image: ratios [B, L, 2] -> [B, M, 2]."""
    places = []
    for level, (height, width) in enumerate(levels.shapes):
        y = torch.arange(height, device=ratios.device, dtype=ratios.dtype) + 0.5
        x = torch.arange(width, device=ratios.device, dtype=ratios.dtype) + 0.5
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)
        places.append(grid / (ratios[:, level, None] * levels.sizes[level].to(ratios.dtype)))
    return torch.cat(places, dim=1)
