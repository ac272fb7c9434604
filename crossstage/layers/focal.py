"""The sigmoid focal loss (RetinaNet) and the varifocal loss as pure functions of logits and labels."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class _FocalSum(torch.autograd.Function):
    """Sum of the sigmoid focal loss over all but the first axis; the forward pass also computes the gradient.

    With z = x for positives and -x for negatives, q = sigmoid(z) is the probability of the true label. An element of
    class weight w costs -w (1 - q)^g log(q), and its derivative with respect to -z is
    w (1 - q)^g (1 - q - g q log(q)). One tensor is saved for the backward pass; autograd would keep about six. On CPU
    `log` of a sigmoid is four times faster than softplus. It rounds q near 1, but there the factor (1 - q)^g makes
    the loss vanish anyway. There is no double backward.

    New memory is the main cost, so three tensors are allocated and then reused in place.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, alpha: float, gamma: float) -> Tensor:
        # Converting bytes to floats is three times faster than converting bools.
        sign = labels.view(torch.uint8).to(logits.dtype).mul_(2).sub_(1)
        right = (logits * sign).sigmoid_().clamp_(min=torch.finfo(logits.dtype).tiny)
        wrong = 1 - right
        log_right = right.log_()
        # The signed class weight is alpha for positives and alpha - 1 for negatives: a linear function of the sign.
        weight = sign.mul_(0.5).add_(alpha - 0.5) if alpha >= 0 else sign
        weight = weight.mul_(wrong).mul_(wrong) if gamma == 2 else weight.mul_(wrong**gamma)
        if ctx.needs_input_grad[0]:
            # 1 - q - g q log(q), written with `wrong` = 1 - q
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

    Args:
        logits: [S, ...].
        labels: bool [S, ...].
        alpha: weight of positives; negatives have 1 - alpha. -1 means no weights.
        gamma: exponent that reduces the loss of elements which are already classified well.

    Returns:
        [S].
    """
    return _FocalSum.apply(logits, labels, alpha, gamma)


def soft_focal_loss(logits: Tensor, labels: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal loss of labels in [0, 1], summed over all but the first axis.

    With p = sigmoid(x) and p_t = p t + (1 - p) (1 - t), an element costs BCE(x, t) (1 - p_t)^gamma, weighted by
    alpha t + (1 - alpha) (1 - t). This is the usual extension of the loss to soft labels; for t in {0, 1} it equals
    `sigmoid_focal_loss`.

    Args:
        logits: [S, ...].
        labels: [S, ...], numbers in [0, 1].
        alpha: weight of positives; negatives have 1 - alpha. -1 means no weights.
        gamma: exponent that reduces the loss of elements which are already classified well.

    Returns:
        [S].
    """
    labels = labels.to(logits.dtype)
    probability = logits.sigmoid()
    wrong = probability + labels - 2 * probability * labels
    costs = F.binary_cross_entropy_with_logits(logits, labels, reduction="none") * wrong**gamma
    if alpha >= 0:
        costs = costs * (alpha * labels + (1 - alpha) * (1 - labels))
    return costs.flatten(1).sum(-1)


class _VarifocalSum(torch.autograd.Function):
    """Sum of the varifocal loss over all but the first axis; the forward pass also computes the gradient.

    With q = 1 - p = sigmoid(-x), an element of weight w costs -w (log(q) + t x), and its derivative is w (p - t), as
    the weight carries no gradient. See `_FocalSum` for why it is written by hand, in place, and with `log`.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, alpha: float, gamma: float) -> Tensor:
        improbability = logits.neg().sigmoid_().clamp_(min=torch.finfo(logits.dtype).tiny)
        probability = 1 - improbability
        power = probability * probability if gamma == 2 else probability**gamma
        weight = torch.where(labels > 0, labels, power.mul_(1 - alpha))
        total = improbability.log_().addcmul_(labels, logits).mul_(weight).flatten(1).sum(-1).neg_()
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(probability.sub_(labels).mul_(weight))
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_total: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return slope * grad_total.view(-1, *[1] * (slope.dim() - 1)), None, None, None


def varifocal_loss(logits: Tensor, labels: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Varifocal loss (VarifocalNet, CVPR 2021, eq. 2), summed over all but the first axis.

    An element with target t > 0 costs t * BCE(x, t), any other (1 - alpha) * p^gamma * BCE(x, 0) with p = sigmoid(x).
    No gradient flows through these weights.

    Args:
        logits: [S, ...].
        labels: [S, ...], bool or numbers in [0, 1].
        alpha: negatives weigh 1 - alpha.
        gamma: exponent that reduces the loss of negatives which are already classified well.

    Returns:
        [S].
    """
    return _VarifocalSum.apply(logits, labels.to(logits.dtype), alpha, gamma)
