"""Sampling a feature pyramid at (x, y, scale), as in AdaMixer (CVPR 2022, section 3.2)."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from crossstage.layers.ops.bilinear_samples import bilinear_samples
from crossstage.layers.ops.shared_gradient import share_gradient, sharing_node
from crossstage.structures import Memory


def level_weights(scales: Tensor, centres: Tensor, *, temperature: float = 2.0) -> Tensor:
    """Weight of each level at a point: softmax over the levels of -(scale - centre)^2 / temperature.

    Args:
        scales: scale of each point, [...].
        centres: [L], the scale at which each level has its largest weight.
        temperature: larger values spread the weight over more levels.

    Returns:
        [..., L].
    """
    distances = scales - centres.view(-1, *(1,) * scales.dim())
    return (-distances.square() / temperature).softmax(dim=0).movedim(0, -1)  # points last until here: faster


def with_shared_gradient(memory: Memory) -> Memory:
    """The memory for several calls of `sample_pyramid`, which then make one gradient of the tokens together."""
    return replace(memory, tokens=share_gradient(memory.tokens))


def sample_pyramid(
    memory: Memory,
    points: Tensor,
    *,
    strides: Tensor | Sequence[int],
    centres: Tensor | Sequence[float],
    temperature: float = 2.0,
) -> Tensor:
    """Features at points of the pyramid: bilinear within a level, weighted over the levels, zero outside the image.

    Give strides and centres as tensors on the device of the points to avoid a copy per call.

    Args:
        memory: the tokens of the pyramid.
        points: [B, N, G, P, 3], (x, y) in pixels of the network input, and the scale z.
        strides: [L], pixels per cell of each level.
        centres: [L], the z at which each level has its largest weight.
        temperature: see `level_weights`.

    Returns:
        [B, N, G, P, C / G]: group g reads the g-th slice of the channels.
    """
    sizes = memory.levels.sizes.to(points.dtype)
    extent = sizes * torch.as_tensor(strides, dtype=points.dtype, device=points.device)[:, None]  # [L, 2], pixels
    centres = torch.as_tensor(centres, dtype=points.dtype, device=points.device)
    weights = level_weights(points[..., 2], centres, temperature=temperature)
    locations = points[..., None, :2] / extent  # [B, N, G, P, L, 2]
    values = memory.tokens.unflatten(-1, (points.shape[2], -1))
    # Each point is a row of its own, with one sample per level.
    return bilinear_samples(
        values,
        memory.levels,
        locations=locations[..., None, :],
        weights=weights[..., None],
        shared=sharing_node(memory.tokens),
    )
