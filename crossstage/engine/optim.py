"""Parameter groups by detrex's rules, and learning rates by fvcore's schedules."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fvcore.common.param_scheduler import ParamScheduler
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

from crossstage.errors import InputError

logger = logging.getLogger("crossstage.engine")

NORM_LAYERS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def parameter_groups(
    model: nn.Module,
    *,
    base_lr: float,
    weight_decay: float,
    weight_decay_norm: float = 0.0,
    lr_factors: Mapping[str, float] | None = None,
    decay_factors: Mapping[str, float] | None = None,
    no_decay: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """The trainable parameters of a model, grouped by learning rate and weight decay.

    Args:
        model: the model; a shared parameter appears once.
        base_lr: the learning rate.
        weight_decay: for all parameters without another rule, biases included.
        weight_decay_norm: for the parameters of normalisation layers.
        lr_factors: factors on `base_lr`, by a part of the parameter's full name; the first part that occurs is used.
        decay_factors: factors on `weight_decay`, by a part of the name as in `lr_factors`. They also apply to
            normalisation layers, which then ignore `weight_decay_norm`.
        no_decay: parts of names; parameters with one of them get no weight decay (Swin's relative position biases).

    Returns:
        The groups, as the argument `params` of an optimizer.

    Raises:
        InputError: if no parameter is trainable.
    """
    lr_factors, decay_factors = dict(lr_factors or {}), dict(decay_factors or {})
    _warn_of_unused(model, lr_factors=lr_factors, decay_factors=decay_factors, no_decay=no_decay)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    seen: set[int] = set()
    for module_name, module in model.named_modules():
        module_decay = weight_decay_norm if isinstance(module, NORM_LAYERS) else weight_decay
        for name, parameter in module.named_parameters(prefix=module_name, recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            lr_factor, decay_factor = _factor(lr_factors, name), _factor(decay_factors, name)
            lr = base_lr if lr_factor is None else base_lr * lr_factor
            decay = module_decay if decay_factor is None else weight_decay * decay_factor
            decay = 0.0 if any(part in name for part in no_decay) else decay
            group = groups.setdefault((lr, decay), {"params": [], "lr": lr, "weight_decay": decay})
            group["params"].append(parameter)
    if not groups:
        raise InputError("the model has no trainable parameter; expected some with requires_grad=True")
    return list(groups.values())


def _factor(factors: Mapping[str, float], name: str) -> float | None:
    """The value of the first key that is part of a parameter's name, or None."""
    return next((factor for part, factor in factors.items() if part in name), None)


def _warn_of_unused(model: nn.Module, **options: Iterable[str]) -> None:
    """Warn of parts of names, by option, that no parameter has."""
    names = [name for name, _ in model.named_parameters()]
    for key, part in ((key, part) for key, parts in options.items() for part in parts):
        if not any(part in name for name in names):
            logger.warning(f"optimizer.params.{key}: no parameter's name contains {part!r}, it has no effect")


class WarmupParamScheduler(ParamScheduler):
    """A schedule that begins with a warm-up.

    The warm-up rises linearly from warmup_factor * scheduler(0) to scheduler(warmup_length), as in detectron2.

    Args:
        scheduler: the schedule without warm-up.
        warmup_length: length of the warm-up as a share of the training, in [0, 1).
        warmup_factor: the factor at the beginning.

    Raises:
        InputError: if `warmup_length` is outside [0, 1).
    """

    def __init__(self, scheduler: ParamScheduler, *, warmup_length: float, warmup_factor: float = 0.001) -> None:
        if not 0 <= warmup_length < 1:
            raise InputError(f"warmup_length={warmup_length}: expected a share of the training, in [0, 1)")
        self.scheduler, self.warmup_length, self.warmup_factor = scheduler, warmup_length, warmup_factor

    def __call__(self, where: float) -> float:
        """The multiplier at `where`, the finished share of the training in [0, 1)."""
        if where >= self.warmup_length:
            return self.scheduler(where)
        start, end = self.warmup_factor * self.scheduler(0.0), self.scheduler(self.warmup_length)
        return start + (end - start) * where / self.warmup_length


class LRMultiplier:
    """Sets the learning rate of each group to its own rate times multiplier(iteration / max_iter).

    The schedule is relative to the length of the training: another `max_iter` stretches it.

    Args:
        optimizer: the optimizer whose groups are changed.
        multiplier: the factor as a function of the finished share of the training.
        max_iter: number of iterations.
    """

    def __init__(self, optimizer: Optimizer, multiplier: ParamScheduler, *, max_iter: int) -> None:
        self.optimizer, self.multiplier, self.max_iter = optimizer, multiplier, max_iter
        self.base_lrs = [group["lr"] for group in optimizer.param_groups]

    def set(self, iteration: int) -> None:
        """Set the learning rates of the (zero-based) `iteration`."""
        factor = self.multiplier(iteration / self.max_iter)
        for group, base_lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = base_lr * factor

    @property
    def lr(self) -> float:
        """The learning rate of the group with the most tensors; the log shows this one."""
        return max(self.optimizer.param_groups, key=lambda group: len(group["params"]))["lr"]

    def state_dict(self) -> dict[str, Any]:
        """Values for the record only. Nothing is needed to resume, because the schedule depends on the iteration."""
        return {"max_iter": self.max_iter, "base_lrs": list(self.base_lrs)}


def load_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load moments and step counts. Learning rates, decays and betas stay those of the config.

    Args:
        optimizer: the optimizer to change.
        state: the optimizer's state in a checkpoint.

    Raises:
        InputError: if the parameter groups have other sizes.
    """
    configured = [{key: group[key] for key in group if key != "params"} for group in optimizer.param_groups]
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    saved = [len(group["params"]) for group in state["param_groups"]]
    if sizes != saved:
        raise InputError(
            f"cannot resume: the checkpoint's optimizer has groups of {saved} tensors, the config's of {sizes}; "
            "restore model and optimizer, or start again from only the weights (train.init_checkpoint)"
        )
    optimizer.load_state_dict(state)
    for group, values in zip(optimizer.param_groups, configured, strict=True):
        group.update(values)
