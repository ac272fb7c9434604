"""`box_sums`: the values and the gradient that autograd finds for the plain expression, at edges too."""

import pytest
import torch
from torch import Tensor

from crossstage.layers.boxes import BoxDistance


def scene(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes and objects, [2, 3, 24, 4], many in a special position, and which are matched."""
    generator = torch.Generator().manual_seed(0)
    objects = torch.rand(2, 3, 24, 4, generator=generator, dtype=dtype) / 2 + 0.25
    boxes = objects + 0.2 * torch.randn(2, 3, 24, 4, generator=generator, dtype=dtype)
    boxes[:, :, 0:3] = objects[:, :, 0:3]  # equal
    boxes[:, :, 3:6, :2] = objects[:, :, 3:6, :2]  # one centre
    objects[:, :, 6], boxes[:, :, 6] = torch.tensor([[0.5, 0.5, 0.25, 0.25], [0.5625, 0.5, 0.375, 0.25]], dtype=dtype)
    boxes[:, :, 7, :2] = objects[:, :, 7, :2] + 2  # apart
    boxes[:, :, 8, 2:] = 0  # without area
    boxes[:, :, 9:11, 2:], objects[:, :, 9:11, 2:] = 0, 0
    boxes[:, :, 10] = objects[:, :, 10]
    matched = torch.rand(2, 3, 24, generator=generator) < 0.8
    return boxes, objects, matched


def plain(distance: BoxDistance, boxes: Tensor, objects: Tensor, matched: Tensor) -> tuple[Tensor, Tensor]:
    """The same by operations that autograd differentiates."""
    apart, overlap = distance(torch.where(matched[..., None], boxes, objects), objects)
    return apart.flatten(1).sum(-1), ((1 - overlap) * matched).flatten(1).sum(-1)


@pytest.mark.parametrize("eps", [1e-6, 1e-30])
@pytest.mark.parametrize("corners", [False, True])
def test_values_and_gradients_are_those_of_the_plain_expression(corners: bool, eps: float):
    boxes, objects, matched = scene()
    distance = BoxDistance(corners=corners, eps=eps)
    found, expected = [], []
    for kind in range(2):  # each sum has a gradient of its own
        for function, results in ((distance.sums, found), (lambda *args: plain(distance, *args), expected)):
            leaf = boxes.clone().requires_grad_()
            sums = function(leaf, objects, matched)
            (sums[kind] * torch.tensor([1.0, -3.0])).sum().backward()
            results += [sums[kind].detach(), leaf.grad]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert not found[1][~matched].any() and not found[3][~matched].any()
