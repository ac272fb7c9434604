"""Weighted sums of rows: values and gradients are `embedding_bag`'s; the CPU's own backward holds in every corner."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from crossstage.layers.ops.weighted_rows import weighted_rows

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}


def stock(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    return F.embedding_bag(rows, table, per_sample_weights=weights, mode="sum")


def bags(*, bags=40, per_bag=8, rows=30, width=5, dtype=torch.float64, index=torch.int32):
    """A table that requires gradients, indices (many of them repeated) and weights that require gradients."""
    table = torch.randn(rows, width, dtype=dtype, requires_grad=True)
    indices = torch.randint(0, max(rows, 1), (bags, per_bag), dtype=index)
    return table, indices, torch.randn(bags, per_bag, dtype=dtype, requires_grad=True)


def gradients(function, table: Tensor, rows: Tensor, weights: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    leaves = [tensor for tensor in (table, weights) if tensor.requires_grad]
    return torch.autograd.grad(function(table, rows, weights), leaves, grad)


def has_own_backward(output: Tensor) -> bool:
    return type(output.grad_fn).__name__ == "_SumsBackward"


def assert_gradients_equal(table: Tensor, rows: Tensor, weights: Tensor, grad: Tensor):
    """To rounding, in terms of the largest gradient."""
    assert has_own_backward(weighted_rows(table, rows, weights)) == (rows.shape[1] <= len(table))
    ours, theirs = (gradients(function, table, rows, weights, grad) for function in (weighted_rows, stock))
    for found, expected in zip(ours, theirs, strict=True):
        assert found.dtype == expected.dtype
        scale = float(expected.abs().max()) if expected.numel() else 1.0
        torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE[table.dtype] * scale)


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "sizes", [{}, {"bags": 700, "per_bag": 64, "rows": 900, "width": 32}, {"rows": 8}, {"rows": 1}]
)
def test_values_and_gradients_are_those_of_embedding_bag(sizes, dtype, index):
    table, rows, weights = bags(**sizes, dtype=dtype, index=index)
    assert weighted_rows(table, rows, weights).equal(stock(table, rows, weights))
    assert_gradients_equal(table, rows, weights, torch.randn(len(rows), table.shape[1], dtype=dtype))


def test_the_gradient_is_that_of_small_steps():
    table, rows, weights = bags(bags=4, per_bag=3, rows=5, width=2)
    rows[0] = 1  # one row three times in a bag
    assert torch.autograd.gradcheck(lambda table, weights: weighted_rows(table, rows, weights), (table, weights))


@pytest.mark.parametrize("frozen", ["table", "weights"])
def test_only_one_of_the_inputs_may_require_a_gradient(frozen):
    table, rows, weights = bags()
    {"table": table, "weights": weights}[frozen].requires_grad_(False)
    assert_gradients_equal(table, rows, weights, torch.randn(40, 5, dtype=torch.float64))


@pytest.mark.parametrize("sizes", [{"bags": 0}, {"bags": 0, "rows": 0}])
def test_without_bags_gradients_are_zero(sizes):
    table, rows, weights = bags(**sizes)
    output = weighted_rows(table, rows, weights)
    assert output.shape == (len(rows), 5)
    assert output.count_nonzero() == 0
    of_table, of_weights = torch.autograd.grad(output.sum(), (table, weights))
    assert of_table.shape == table.shape
    assert of_table.count_nonzero() == 0
    assert of_weights.shape == weights.shape


def test_no_input_need_be_contiguous():
    table, rows, weights = bags(bags=6, per_bag=8, rows=6, width=9)
    columns = torch.randn(6, 8, dtype=torch.float64).t()
    for grad in (columns, columns[:1].expand(8, 6)):
        assert_gradients_equal(table.t(), rows.t(), weights.t(), grad)


def test_a_gradient_of_weights_does_not_depend_on_the_weights():
    """They are linear in it. Zero, infinite and NaN weights therefore have the same gradients as all others."""
    table, rows, weights = bags(bags=3, per_bag=2)
    odd = torch.tensor([[0.0, float("inf")], [float("nan"), 1.0], [-float("inf"), 1e300]], dtype=torch.float64)
    grad = torch.randn(3, 5, dtype=torch.float64)
    expected = gradients(weighted_rows, table, rows, weights, grad)[1]
    assert gradients(weighted_rows, table, rows, odd.requires_grad_(), grad)[1].equal(expected)


def test_a_gradient_may_keep_its_graph():
    table, rows, weights = bags()
    ours, theirs = (
        torch.autograd.grad(function(table, rows, weights).square().sum(), (table, weights), create_graph=True)
        for function in (weighted_rows, stock)
    )
    for found, expected in zip(ours, theirs, strict=True):
        assert found.requires_grad
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("of", [0, 1])
@pytest.mark.parametrize("by", [0, 1])
def test_a_second_derivative_is_refused(of, by):
    """Even where the output is linear in the input: none may be left out of a sum without a word."""
    table, rows, weights = bags()
    first = torch.autograd.grad(weighted_rows(table, rows, weights).sum(), (table, weights), create_graph=True)
    with pytest.raises(NotImplementedError, match=r"weighted_rows .* has no second derivative; .* use"):
        torch.autograd.grad(first[of].sum(), (table, weights)[by])


def test_inputs_changed_before_the_backward_are_an_error():
    table, rows, weights = bags()
    output = weighted_rows(table * 1, rows, weights)
    rows.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_autocast_changes_neither_values_nor_gradients():
    table, rows, weights = bags(dtype=torch.float32)
    grad = torch.randn(40, 5)
    expected = gradients(weighted_rows, table, rows, weights, grad)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gradients(weighted_rows, table, rows, weights, grad)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.equal(theirs)


def test_the_rest_is_embedding_bags():
    """Other dtypes, inputs without gradients and compiled graphs, which scipy's product would break."""
    table, rows, weights = bags()
    assert not has_own_backward(weighted_rows(table.detach(), rows, weights.detach()))
    half, half_weights = table.detach().bfloat16().requires_grad_(), weights.detach().bfloat16()
    assert not has_own_backward(weighted_rows(half, rows, half_weights))
    with torch.no_grad():
        assert weighted_rows(table, rows, weights).grad_fn is None

    compiled = torch.compile(weighted_rows, backend="aot_eager", fullgraph=True)
    grad = torch.randn(40, 5, dtype=torch.float64)
    for found, expected in zip(*(gradients(f, table, rows, weights, grad) for f in (compiled, stock)), strict=True):
        assert found.equal(expected)


WARNINGS_OF_A_NEW_PROCESS = """
import warnings, torch
from crossstage.layers.ops.weighted_rows import weighted_rows
table, weights = torch.randn(3, 2, requires_grad=True), torch.rand(4, 2, requires_grad=True)
rows = torch.zeros(4, 2, dtype=torch.int32)
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    for _ in range(2):
        weighted_rows(table, rows, weights).sum().backward()
    warnings.warn("of others")
print([str(warning.message) for warning in seen])
"""


def test_the_first_backward_of_a_process_does_not_warn():
    ran = subprocess.run([sys.executable, "-c", WARNINGS_OF_A_NEW_PROCESS], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "['of others']"
