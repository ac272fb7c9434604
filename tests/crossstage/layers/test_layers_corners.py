"""The corners of bilinear samples: gradients that are written out are those of autograd."""

import pytest
import torch

from crossstage.layers.ops import corners as module
from crossstage.layers.ops.corners import corners

SIZES = torch.tensor([[5.0, 4.0, 1.0], [3.0, 1.0, 1.0]], dtype=torch.float64)[:, None]


def points() -> torch.Tensor:
    """[7, 3, 2] in three maps: inside, across each border, at pixel centres, far away, infinite and NaN."""
    inside = torch.rand(1, 3, 2, dtype=torch.float64)
    borders = torch.tensor([-0.02, 1.02], dtype=torch.float64)[:, None, None].expand(2, 3, 2)
    centres = ((torch.tensor([0.0, 1.0], dtype=torch.float64)[:, None, None] + 0.5) / SIZES[:, 0].t()).expand(2, 3, 2)
    odd = torch.tensor([[1e30, 0.4], [float("inf"), 0.4], [0.4, float("nan")]], dtype=torch.float64)
    return torch.cat([inside, borders, centres, odd[:, None].expand(3, 3, 2)])


@pytest.mark.parametrize("transposed", [False, True])
def test_values_and_gradients_are_those_of_the_form_for_graphs(monkeypatch, transposed: bool):
    """Also where the rows are the last axis, as where a row has few samples."""
    leaf, weights = points().requires_grad_(), torch.rand(8, 3, dtype=torch.float64).requires_grad_()
    sizes = SIZES.transpose(1, 2) if transposed else SIZES
    seen = torch.randn(*((3, 2, 2, 8) if transposed else (8, 2, 2, 3)), dtype=torch.float64)
    results = []
    for recorded in (False, True):
        monkeypatch.setattr(module, "exporting", lambda recorded=recorded: recorded)
        columns, rows, shares = corners(
            leaf.transpose(0, 1) if transposed else leaf, weights.t() if transposed else weights, sizes
        )
        results.append((columns, rows, shares, *torch.autograd.grad(shares, (leaf, weights), seen)))
    for written_out, by_autograd in zip(*results, strict=True):
        torch.testing.assert_close(written_out, by_autograd, rtol=1e-12, atol=1e-12)
    assert results[0][3].count_nonzero() >= 20  # the gradients were not all zero


def test_what_is_not_finite_has_no_share_and_no_gradient():
    leaf, weights = points()[-3:].requires_grad_(), torch.ones(3, 3, dtype=torch.float64).requires_grad_()
    columns, rows, shares = corners(leaf, weights, SIZES)
    shares.sum().backward()
    assert not shares.any() and not leaf.grad.any() and not weights.grad.any()
    assert (columns >= 0).all() and (columns.amax((0, 1)) < SIZES[0, 0]).all() and (rows >= 0).all()


def test_points_of_one_place_get_the_sum_of_their_gradients():
    """They are expanded: all have the same memory."""
    leaf = points()[:1].requires_grad_()
    grads = []
    for same in (leaf.expand(4, 3, 2), leaf.repeat(4, 1, 1)):
        _, _, shares = corners(same, torch.arange(12.0, dtype=torch.float64).view(4, 3), SIZES)
        grads.append(torch.autograd.grad((shares**2).sum(), leaf)[0])
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-12, atol=0)


def test_second_derivatives_are_refused():
    leaf = points()[:1].requires_grad_()
    _, _, shares = corners(leaf, torch.ones(1, 3, dtype=torch.float64), SIZES)
    (first,) = torch.autograd.grad((shares**2).sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
