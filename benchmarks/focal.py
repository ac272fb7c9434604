"""Sigmoid focal loss, forward and backward: ours against BCE times (1 - p_t)^gamma on dense float labels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks import loops, with_detrex
from benchmarks.measure import Comparison, Setting, Target, interleaved, max_difference
from crossstage.modeling.supervision.losses import sigmoid_focal_loss

SHAPE = (7, 2, 900, 80)


def run(setting: Setting) -> list[Comparison]:
    """One row a baseline. Loss (relative) and gradient (absolute) are compared."""
    shape = (2, 2, 30, 10) if setting.quick else SHAPE
    random = torch.Generator().manual_seed(0)
    logits = (torch.randn(shape, generator=random) * 1.5 - 3).requires_grad_()
    labels = torch.rand(shape, generator=random) < 0.001
    floats = labels.float()
    sides: dict[str, Callable[[], Tensor]] = {
        "usual dense": lambda: loops.focal_loss(logits, floats),
        "ours": lambda: sigmoid_focal_loss(logits, labels).sum(),
    }
    if (theirs := with_detrex.focal_loss(logits, floats)) is not None:
        sides["detrex"] = theirs

    def step(side: Callable[[], Tensor]) -> Tensor:
        logits.grad = None
        total = side()
        total.backward()
        return total.detach()

    results = {}
    for name, side in sides.items():
        total = step(side)
        results[name] = total, logits.grad
    times = interleaved({name: lambda side=side: step(side) for name, side in sides.items()}, setting.rounds)
    total, gradient = results["ours"]
    return [
        Comparison(
            benchmark="focal",
            case=f"forward + backward, {'x'.join(map(str, shape))}",
            baseline=name,
            theirs=times[name],
            ours=times["ours"],
            target=Target(at_least=3.0) if name == "usual dense" else Target(),
            difference=max(
                max_difference(results[name][0] / total, total / total), max_difference(results[name][1], gradient)
            ),
            tolerance=1e-6,
        )
        for name in sides
        if name != "ours"
    ]
