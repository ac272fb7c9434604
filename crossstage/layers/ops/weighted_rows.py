"""Weighted sums of rows of a table: how deformable attention and 3-D sampling read the feature pyramid.

The sums are `embedding_bag`'s. On a CPU its backward takes 10 to 30 times as long as its forward: it sorts all indices
for the table's gradient, and it calls one dot product per row for the weights' gradient. Both gradients are products
with a sparse matrix S [Q, R], which holds each bag's weights in the columns of the rows that the bag reads: the table's
gradient is S^T @ grad, and the weights' gradient is grad @ table^T, computed at the entries of S only.
`python -m benchmarks attention` and `stage_interactor` show the speed.

In a graph that is exported the sums are a gather and a product of small matrices. ONNX has no `embedding_bag`: its
exporter writes a loop over the bags, several times slower than eager, which TensorRT refuses.

S^T @ grad is scipy's, because torch's own product with a transposed sparse matrix is several times slower. No other
file of `layers` needs a package other than torch; the library needs scipy in any case, for its matcher.
"""

from __future__ import annotations

import functools
import itertools
import math
import warnings
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array, vstack
from torch import Tensor
from torch.autograd.graph import Node
from torch.nn import functional as F

from crossstage.layers.ops.exporting import exporting
from crossstage.layers.ops.shared_gradient import parts_of_this_pass

LARGEST_PART = 2**23  # numbers that an exported graph gathers at once, 32 MB of float32


def weighted_rows(table: Tensor, rows: Tensor, weights: Tensor, *, shared: Node | None = None) -> Tensor:
    """Sum P weighted rows of the table in each of Q bags.

    On a CPU, float32 and float64 have a backward of their own. All other cases, and graphs that are compiled, use
    torch's `embedding_bag`. Second derivatives do not exist in either case. A graph that is exported gathers the rows.

    Args:
        table: [R, D] floats.
        rows: int32 or int64 [Q, P], the indices of rows of the table. An index may occur several times in a bag.
        weights: [Q, P], in the table's dtype.
        shared: the node that collects the gradient of the values that the table is a view of (`shared_gradient`).

    Returns:
        [Q, D], the sum over p of weights[q, p] * table[rows[q, p]].
    """
    if exporting():
        return _gathered_sums(table, rows, weights)
    needs_gradient = torch.is_grad_enabled() and (table.requires_grad or weights.requires_grad)
    on_cpu = table.device.type == "cpu" and table.dtype in (torch.float32, torch.float64)
    # torch's sparse products hold at most as many entries as the dense matrix [Q, R].
    fits = on_cpu and rows.shape[1] <= len(table)
    if needs_gradient and fits and not torch.compiler.is_compiling():
        return _Sums.apply(table, rows, weights, shared)
    return _sums(table, rows, weights)


def _sums(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    return F.embedding_bag(rows, table, per_sample_weights=weights, mode="sum")


def _gathered_sums(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """As `_sums`, by operations that every runtime has.

    The gathered rows of all bags are larger than the caches: 557 MB in an encoder layer at 640 x 640. So they are
    gathered and summed in parts, which takes about half the time and a part of the memory. The graph holds the number
    of parts. It is 1 if the number of bags is not known, in a graph of dynamic size.
    """
    bags, samples = rows.shape
    parts = max(1, math.ceil(bags * samples * table.shape[1] / LARGEST_PART)) if isinstance(bags, int) else 1
    sums = []
    for index, share in zip(rows.tensor_split(parts), weights.tensor_split(parts), strict=True):
        gathered = table.index_select(0, index.flatten()).view(*index.shape, table.shape[1])
        sums.append((share[:, None] @ gathered).squeeze(1))
    return torch.cat(sums)


class _Sums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, weights: Tensor, shared: Node | None) -> Tensor:
        ctx.save_for_backward(table, rows, weights)
        ctx.shared = shared
        return _sums(table, rows, weights)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        parts = parts_of_this_pass(ctx.shared, total=_product)
        return *_Gradients.apply(grad, *ctx.saved_tensors, ctx.needs_input_grad, parts), None


class _Gradients(torch.autograd.Function):
    """The backward of `_Sums`, as a function of its own so that every second derivative is refused.

    `once_differentiable` would refuse only what depends on `grad`. The table's gradient also depends on the weights,
    and the weights' gradient on the table: these terms would be missing from a second derivative without an error.
    """

    @staticmethod
    def forward(
        ctx: Any,
        grad: Tensor,
        table: Tensor,
        rows: Tensor,
        weights: Tensor,
        wanted: tuple[bool, ...],
        parts: list[Any] | None,
    ) -> tuple[Tensor | None, None, Tensor | None]:
        grad, indices = grad.contiguous(), rows.flatten()
        bag_starts = torch.arange(len(rows) + 1, dtype=rows.dtype) * rows.shape[1]
        of_table = of_weights = None
        if wanted[0]:
            entries = (weights.flatten().numpy(), indices.numpy(), bag_starts.numpy())
            bags = csr_array(entries, shape=(len(rows), len(table)))
            own = (bags, grad.numpy())
            if parts is None:
                of_table = _product([own]).view_as(table)
            else:
                parts.append(own)
        if wanted[2]:
            of_weights = _dot_products(grad, table, indices, bag_starts).view_as(rows)
        return of_table, None, of_weights

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise NotImplementedError(
            "weighted_rows (deformable attention, 3-D sampling) has no second derivative; where one is needed, use "
            "(table[rows] * weights[..., None]).sum(1), which keeps all Q * P rows in memory"
        )


def _product(parts: list[tuple[csr_array, np.ndarray]]) -> Tensor:
    """The gradient of a table, flat: the sum of S^T @ grad over its readers' S and grad.

    All readers that see the table with the same width share one product, which writes each row once.
    """
    totals = []
    for _, group in itertools.groupby(sorted(parts, key=_width), key=_width):
        bags, grads = zip(*group, strict=True)
        stacked = (vstack(bags, format="csr"), np.concatenate(grads)) if len(bags) > 1 else (bags[0], grads[0])
        totals.append(torch.from_numpy(stacked[0].T @ stacked[1]).flatten())
    return functools.reduce(torch.add, totals)


def _width(part: tuple[csr_array, np.ndarray]) -> int:
    return part[1].shape[1]


def _dot_products(grad: Tensor, table: Tensor, indices: Tensor, bag_starts: Tensor) -> Tensor:
    """Products of each bag's gradient with the rows that the bag reads.

    Args:
        grad: [Q, D].
        table: [R, D].
        indices: [Q * P], bag by bag.
        bag_starts: [Q + 1], where each bag starts among the indices, and their number.

    Returns:
        [Q * P].
    """
    _pass_beta_warning()
    # Zeros, to which the products are added in place. (The weights with `beta=0` would not do: 0 * NaN is NaN.)
    zeros = grad.new_zeros(len(indices))
    products = torch.sparse_csr_tensor(bag_starts, indices, zeros, size=(len(grad), len(table)), check_invariants=False)
    return torch.sparse.sampled_addmm(products, grad, table.t(), out=products).values()


@functools.cache
def _pass_beta_warning() -> None:
    """Make a process's first sparse CSR tensor, with which torch warns, once, that these are in beta state."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta", category=UserWarning)
        torch.sparse_csr_tensor([0], [], [], size=(0, 0), check_invariants=False)
