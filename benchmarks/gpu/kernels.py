"""Our Triton kernels: the file bilinear_triton.py next to the script, if it is there and Triton can run."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from types import ModuleType

import torch
from crossstage.projects.stage_interactor.modeling import grouped_sampler
from torch import Tensor

from benchmarks.gpu.record import Check
from crossstage.layers import deformable
from crossstage.modeling.decoders import point_sampler
from crossstage.structures import Levels

Tile = tuple[int, int]  # rows and warps of a program
BEST: dict[tuple[str, torch.dtype], tuple[Tile, Tile]] = {}  # of the forward and backward pass, by case


def set_up(check: Check) -> None:
    """Take few, large programs for tiny sizes: the interpreter's time is by the program."""
    if check.tiny and can_run(check):
        use_tiles((128, 4), (128, 4))


def can_run(check: Check) -> bool:
    """Whether there are kernels, Triton, and a GPU or Triton's interpreter."""
    there = all(importlib.util.find_spec(name) is not None for name in ("bilinear_triton", "triton"))
    return there and (check.cuda or os.environ.get("TRITON_INTERPRET") == "1")


def kernels() -> ModuleType:
    """The module with the kernels."""
    import bilinear_triton

    return bilinear_triton


def use_tiles(forward: Tile, backward: Tile) -> None:
    """Take these tiles where none are given."""
    kernels().FORWARD, kernels().BACKWARD = forward, backward


def triton_form(
    values: Tensor, levels: Levels, *, locations: Tensor, weights: Tensor, tiles: tuple[Tile, Tile] | None = None
) -> Tensor:
    """Deformable sampling by the kernels; shapes as in `forms`."""
    return kernels().deformable_sampling(values, levels, locations=locations, weights=weights, tiles=tiles)


@contextlib.contextmanager
def sampling_by_kernels(on: bool) -> Iterator[None]:
    """Inside, the project samples with the kernels, if `on`; values stay in their own precision."""
    if not on:
        yield
        return
    attention, samplers = deformable.MultiScaleDeformableAttention, (point_sampler, grouped_sampler)
    attend, samples = attention.forward, [module.sample_pyramid for module in samplers]
    attention.forward = _attend
    for module in samplers:
        module.sample_pyramid = kernels().sample_pyramid
    try:
        yield
    finally:
        attention.forward = attend
        for module, function in zip(samplers, samples, strict=True):
            module.sample_pyramid = function


def _attend(self, query, *, memory, references, position=None, identity=None) -> Tensor:
    """`MultiScaleDeformableAttention.forward` with the kernel, without the cast of the values."""
    attending = query + (0 if position is None else position)
    values = self.value_proj(memory.tokens).unflatten(-1, (self.num_heads, -1))
    values = values.masked_fill(memory.mask[..., None, None], 0)
    offsets = self.sampling_offsets(attending).unflatten(-1, (self.num_heads, self.num_levels, self.num_points, 2))
    logits = self.attention_weights(attending).unflatten(-1, (self.num_heads, -1))
    with torch.autocast(query.device.type, enabled=False):
        precision = references.dtype
        locations = deformable.sampling_locations(references, offsets.to(precision), memory.levels)
        weights = logits.to(precision).softmax(dim=-1).view(locations.shape[:-1])
        sampled = kernels().deformable_sampling(values, memory.levels, locations=locations, weights=weights)
    return (query if identity is None else identity) + self.dropout(self.output_proj(sampled))
