"""Class targets from matches, multi-hot and soft ones, without `nonzero()`."""

import math

import torch
from torch import Tensor


def matched_labels(matches: Tensor, labels: Tensor) -> Tensor:
    """Class of each query's object, 0 without one. int64 [S, B, N], int64 [B, T] -> int64 [S, B, N]."""
    index = matches.clamp(min=0)
    return labels.expand(len(matches), -1, -1).gather(-1, index) if labels.shape[1] else index


def multi_hot(classes: Tensor, keep: Tensor, *, num_classes: int) -> Tensor:
    """Build multi-hot targets: each place takes the classes of the sources that are kept for it.

    Args:
        classes: int64, broadcast with `keep`: the class of source j for place i. Ignored if `keep` is False there.
        keep: bool [I, J, ...], whether place i takes the class of source j.
        num_classes: number of classes K.

    Returns:
        bool [I, ..., K].
    """
    shape = (keep.shape[0], *keep.shape[2:], num_classes)
    index = target_cells(classes, keep, num_classes=num_classes)
    targets = torch.zeros(math.prod(shape) + 1, dtype=torch.bool, device=keep.device)
    return targets.index_fill_(0, index.flatten(), True)[:-1].view(shape)


def target_cells(classes: Tensor, keep: Tensor, *, num_classes: int) -> Tensor:
    """Where each source writes in the flattened targets [I * ... * K].

    Sources that are not kept write to one extra cell at the end, which is to be dropped. This avoids `nonzero()`, which
    would synchronise with the device.

    Args:
        classes: as in `multi_hot`.
        keep: as in `multi_hot`.
        num_classes: number of classes K.

    Returns:
        int64 [I, J, ...].
    """
    shape = (keep.shape[0], *keep.shape[2:])
    cells = math.prod(shape) * num_classes
    first_cell = torch.arange(0, cells, num_classes, device=keep.device).view(shape)[:, None]
    return torch.where(keep, first_cell + classes, cells)


def largest_per_class(values: Tensor, classes: Tensor, keep: Tensor, *, num_classes: int) -> Tensor:
    """The largest value that the kept sources have for each class.

    Args:
        values: [I, J, B, N], the value of source j for place i, at least 0.
        classes: int64 [J, B, N], the class of source j. Ignored if `keep` is False there.
        keep: bool, broadcast with `values`: whether place i takes the value of source j.
        num_classes: number of classes K.

    Returns:
        [I, B, N, K]; -1 where no source of the class is kept.
    """
    given = values.where(keep, -1).movedim(1, -1)
    index = classes.movedim(0, -1).expand_as(given)
    return values.new_full((*given.shape[:-1], num_classes), -1).scatter_reduce_(-1, index, given, reduce="amax")
