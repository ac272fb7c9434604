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
    """The trainable parameters of a model, merged by learning rate and weight decay.

    A parameter's factor is that of the first key which is part of the parameter's full name, 1 without such a key.

    Args:
        model: whose parameters; a shared one appears once.
        base_lr: multiplied by `lr_factors`.
        weight_decay: multiplied by `decay_factors`.
        weight_decay_norm: for the parameters of normalisation layers; biases elsewhere get `weight_decay`.
        lr_factors: part of a name -> factor on `base_lr`.
        decay_factors: part of a name -> factor on `weight_decay`, for normalisation layers too.
        no_decay: parts of names; such parameters get no weight decay (Swin's relative position biases).

    Returns:
        Parameter groups for an optimizer's `params`.

    Raises:
        InputError: if nothing is trainable.
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
            logger.warning(f"optimizer.params.{key}: {part!r} is part of no parameter's name, it has no effect")


class WarmupParamScheduler(ParamScheduler):
    """`scheduler`, preceded by a warm-up over the first `warmup_length` (a share in [0, 1)) of the training.

    The warm-up rises linearly from warmup_factor * scheduler(0) to scheduler(warmup_length), as detectron2's does.
    """

    def __init__(self, scheduler: ParamScheduler, *, warmup_length: float, warmup_factor: float = 0.001) -> None:
        if not 0 <= warmup_length < 1:
            raise InputError(f"warmup_length={warmup_length}: expected a share of the training, in [0, 1)")
        self.scheduler, self.warmup_length, self.warmup_factor = scheduler, warmup_length, warmup_factor

    def __call__(self, where: float) -> float:
        """The multiplier at `where`, in [0, 1)."""
        if where >= self.warmup_length:
            return self.scheduler(where)
        start, end = self.warmup_factor * self.scheduler(0.0), self.scheduler(self.warmup_length)
        return start + (end - start) * where / self.warmup_length


class LRMultiplier:
    """Sets each group's learning rate to its own times multiplier(iteration / max_iter).

    The schedule is relative: changing `max_iter` alone stretches it.
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
        """The learning rate of the group with the most tensors: what the log shows."""
        return max(self.optimizer.param_groups, key=lambda group: len(group["params"]))["lr"]

    def state_dict(self) -> dict[str, Any]:
        """For the record: the schedule is a function of the iteration, nothing is needed to resume."""
        return {"max_iter": self.max_iter, "base_lrs": list(self.base_lrs)}


def load_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load moments and step counts; learning rates, decays and betas stay those of the config.

    Raises InputError if the parameter groups are others.
    """
    configured = [{key: group[key] for key in group if key != "params"} for group in optimizer.param_groups]
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    saved = [len(group["params"]) for group in state["param_groups"]]
    if sizes != saved:
        raise InputError(
            f"cannot resume: the checkpoint's optimizer has groups of {saved} tensors, the config's of {sizes}; "
            "restore model and optimizer, or start anew from the weights alone (train.init_checkpoint)"
        )
    optimizer.load_state_dict(state)
    for group, values in zip(optimizer.param_groups, configured, strict=True):
        group.update(values)
