"""What the batches of one optimizer step share: the counts that their losses are divided by.

The losses of a detector are sums over objects, divided by the number of objects. If an optimizer step adds the
gradients of several batches, each batch must be divided by the objects of all: then the step equals that of one large
batch. The trainer states the counts here, and the normalisers of the criterion read them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class StepCounts:
    """The counts of one optimizer step.

    Attributes:
        parts: number of batches.
        objects: mean number of objects per batch.
        recorded: of each batch the counts that are known only after its forward pass, by the name of the query group.
        records: whether forward passes only record these counts, or divide by their mean.
    """

    parts: int
    objects: float
    recorded: list[dict[str, Tensor]] = field(default_factory=list)
    records: bool = False


_current: ContextVar[StepCounts | None] = ContextVar("counts of the optimizer step", default=None)


@contextmanager
def sharing(counts: StepCounts) -> Iterator[StepCounts]:
    """Inside, the losses of a batch are divided by the counts of the whole step, as means per batch."""
    token = _current.set(counts)
    try:
        yield counts
    finally:
        _current.reset(token)


def objects_per_batch(own: Tensor) -> Tensor:
    """The number of objects per batch of the step, of the shape of `own`; outside a step, the batch's own number."""
    current = _current.get()
    return own if current is None else torch.full_like(own, current.objects)


def counts_per_batch(own: Tensor, group: str) -> Tensor:
    """Counts that depend on the assignment, as means over the batches of the step; outside a step, the batch's own.

    Args:
        own: the counts of this batch.
        group: the query group that they belong to.

    Returns:
        The counts, of the shape of `own`.
    """
    current = _current.get()
    if current is None:
        return own
    if current.records:
        current.recorded[-1][group] = own
        return own
    found = [counts[group] for counts in current.recorded if group in counts]
    return torch.stack(found).sum(0) / current.parts


def least_count() -> float:
    """The count per batch of a step with a single object."""
    current = _current.get()
    return 1.0 if current is None else 1 / current.parts
