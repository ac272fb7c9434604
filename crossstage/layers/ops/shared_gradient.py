"""One gradient for values that are read many times, such as the tokens that all decoder stages sample.

A reader that touches few rows of a large tensor has a gradient that is mostly zeros. Autograd writes one such gradient
per reader and adds them up: for six stages and the pyramid of an image of 800 x 1067 pixels, six times 91 MB.

`share_gradient` puts one node before all readers. In the backward pass a reader hands this node its part of the
gradient and returns None; the node runs after all of its readers, and makes one gradient of all parts. The parts belong
to one backward pass: a second pass over a kept graph, or one inside another, collects its own. A pass that needs no
gradient of the values collects nothing. Readers that do not take part, compiled ones among them, return their gradient
as usual, and it is added. Passes that are to be differentiated again (`create_graph`) go without parts.

The gradient of the shared values themselves cannot be asked for (`autograd.grad`, hooks): ask for that of the tensor
which was given to `share_gradient`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

Total = Callable[[list[Any]], Tensor]


def share_gradient(values: Tensor) -> Tensor:
    """The same values, whose readers' gradients are collected; unchanged where there is nothing to collect."""
    if torch.compiler.is_compiling() or not (torch.is_grad_enabled() and values.requires_grad):
        return values
    return _Shared.apply(values)


def sharing_node(values: Tensor) -> Node | None:
    """The node that collects parts for these values: only if they are what `share_gradient` returned, not a result."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return None
    return values.grad_fn if hasattr(values.grad_fn, "parts_of_passes") else None


def parts_of_this_pass(node: Node | None, *, total: Total) -> list[Any] | None:
    """Where a reader adds its part, in its backward function.

    Args:
        node: from `sharing_node` in the reader's forward function.
        total: makes one gradient of all parts, with the number of elements of the values and in their order. Readers
            with different functions do not share parts.

    Returns:
        The parts of the earlier readers of this pass, to be changed in place; None if the reader has to return its
        gradient itself.
    """
    if node is None or torch.is_grad_enabled() or not torch._C._will_engine_execute_node(node):
        return None
    passes: dict[int, dict[Total, list[Any]]] = node.parts_of_passes  # type: ignore[attr-defined]
    return passes.setdefault(torch._C._current_graph_task_id(), {}).setdefault(total, [])


class _Shared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.parts_of_passes = {}
        ctx.shape = values.shape
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Tensor | None:
        parts = ctx.parts_of_passes.pop(torch._C._current_graph_task_id(), {})
        totals = [total(own).view(ctx.shape) for total, own in parts.items()]
        gradients = totals if grad is None else [grad, *totals]
        return functools.reduce(torch.add, gradients) if gradients else None
