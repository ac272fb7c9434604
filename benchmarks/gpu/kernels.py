"""The library's Triton kernels in the check: whether they can run here, their tiles, steps with and without them."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from types import ModuleType

import torch
from torch import Tensor

from benchmarks.gpu.record import Check
from crossstage.layers.ops import bilinear_samples
from crossstage.structures import Levels

Tile = tuple[int, int]  # rows and warps of a program
BEST: dict[tuple[str, torch.dtype], tuple[Tile, Tile]] = {}  # of the forward and backward pass, by case


def set_up(check: Check) -> None:
    """Take few, large programs for tiny sizes: the interpreter's time is by the program."""
    if check.tiny and can_run(check):
        use_tiles((128, 4), (128, 4))


def can_run(check: Check) -> bool:
    """Whether there is Triton, and a GPU or Triton's interpreter."""
    has_triton = importlib.util.find_spec("triton") is not None
    return has_triton and (check.cuda or os.environ.get("TRITON_INTERPRET") == "1")


def kernels() -> ModuleType:
    """The module with the kernels; it needs Triton."""
    from crossstage.layers.ops import bilinear_triton

    return bilinear_triton


def use_tiles(forward: Tile, backward: Tile) -> None:
    """Take these tiles from now on."""
    kernels().FORWARD, kernels().BACKWARD = forward, backward


def triton_form(
    values: Tensor, levels: Levels, *, locations: Tensor, weights: Tensor, tiles: tuple[Tile, Tile] | None = None
) -> Tensor:
    """Deformable sampling by the kernels, with these tiles from now on; shapes as in `forms`."""
    if tiles is not None:
        use_tiles(*tiles)
    return kernels().kernel_samples(values, levels, locations=locations, weights=weights).flatten(2)


@contextlib.contextmanager
def sampling_by_kernels(on: bool) -> Iterator[None]:
    """Inside, the project samples with the kernels, or without them; outside, it chooses by itself."""
    chosen = bilinear_samples._on_kernel
    bilinear_samples._on_kernel = lambda values: on
    try:
        yield
    finally:
        bilinear_samples._on_kernel = chosen
