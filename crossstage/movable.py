"""The base of the dataclasses that hold tensors."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

_T = TypeVar("_T", bound="Movable")


@dataclass(frozen=True)
class Movable:
    """`.to(...)` for a dataclass of tensors, tuples of tensors and other such dataclasses."""

    def to(
        self: _T, device: torch.device | str | None = None, dtype: torch.dtype | None = None, non_blocking: bool = False
    ) -> _T:
        """Return a copy on `device`; `dtype` applies to the floating-point tensors alone."""
        moved = {f.name: _move(getattr(self, f.name), device, dtype, non_blocking) for f in fields(self)}
        return replace(self, **moved)


def _move(value: Any, device: torch.device | str | None, dtype: torch.dtype | None, non_blocking: bool) -> Any:
    if isinstance(value, Tensor):
        dtype = dtype if value.is_floating_point() else None
        return value.to(device=device, dtype=dtype, non_blocking=non_blocking)
    if isinstance(value, Movable):
        return value.to(device, dtype, non_blocking)
    if isinstance(value, tuple):
        return tuple(_move(item, device, dtype, non_blocking) for item in value)
    return value
