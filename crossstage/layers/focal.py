"""The sigmoid focal loss (RetinaNet) as a pure function of logits and labels."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class _FocalSum(torch.autograd.Function):
    """Sum of the sigmoid focal loss over all but the first axis, its gradient computed on the way.

    With z = x for positives and -x for negatives, q = sigmoid(z) is the probability of what is true. An element of
    class weight w costs -w (1 - q)^g log(q), and its slope against -z is w (1 - q)^g (1 - q - g q log(q)). One tensor
    is saved instead of the half dozen that autograd keeps, and `log` of a sigmoid is four times quicker than
    softplus on CPU; that q near 1 is rounded changes terms that (1 - q)^g has made vanish. No double backward.

    What costs is memory that is touched for the first time, so three tensors are made and then reused in place.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, alpha: float, gamma: float) -> Tensor:
        # bytes convert to floats three times quicker than bools do
        sign = labels.view(torch.uint8).to(logits.dtype).mul_(2).sub_(1)
        right = (logits * sign).sigmoid_().clamp_(min=torch.finfo(logits.dtype).tiny)
        wrong = 1 - right
        log_right = right.log_()
        # the class weight with its sign, alpha for positives and alpha - 1 for negatives, is linear in the sign
        weight = sign.mul_(0.5).add_(alpha - 0.5) if alpha >= 0 else sign
        weight = weight.mul_(wrong).mul_(wrong) if gamma == 2 else weight.mul_(wrong**gamma)
        if ctx.needs_input_grad[0]:
            # 1 - q - g q log(q), in terms of 1 - q
            slope = wrong.addcmul_(wrong, log_right, value=gamma).sub_(log_right, alpha=gamma).mul_(weight)
            ctx.save_for_backward(slope)
        return log_right.mul_(weight).abs_().flatten(1).sum(-1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_total: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return slope * -grad_total.view(-1, *[1] * (slope.dim() - 1)), None, None, None


def sigmoid_focal_loss(logits: Tensor, labels: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal loss (RetinaNet, eq. 5) of multi-hot labels, summed over all but the first axis.

    logits: [S, ...].  labels: bool [S, ...].  alpha: weight of positives (negatives: 1 - alpha), or -1 for none.
    Returns [S].
    """
    return _FocalSum.apply(logits, labels, alpha, gamma)


def soft_focal_loss(logits: Tensor, labels: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal loss of labels that are numbers, summed over all but the first axis.

    With p = sigmoid(x) and p_t = p t + (1 - p) (1 - t), an element costs BCE(x, t) (1 - p_t)^gamma, weighted by
    alpha t + (1 - alpha) (1 - t), as usual libraries extend the loss to soft labels. For t in {0, 1} this is
    `sigmoid_focal_loss`.

    logits, labels: [S, ...].  alpha: weight of positives (negatives: 1 - alpha), or -1 for none.  Returns [S].
    """
    labels = labels.to(logits.dtype)
    probability = logits.sigmoid()
    wrong = probability + labels - 2 * probability * labels
    costs = F.binary_cross_entropy_with_logits(logits, labels, reduction="none") * wrong**gamma
    if alpha >= 0:
        costs = costs * (alpha * labels + (1 - alpha) * (1 - labels))
    return costs.flatten(1).sum(-1)
