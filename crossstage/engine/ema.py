"""Keeps an exponential moving average of a model's weights, with timm."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from omegaconf import DictConfig
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from crossstage.engine.sharding import own_part
from crossstage.errors import InputError


def unique_state(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of `model.state_dict()` (not copies), each once: a shared tensor under the first of its names."""
    seen: set[int] = set()
    unique = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            unique[name] = tensor
    return unique


class ModelEma(ModelEmaV3):
    """Keeps average = decay * average + (1 - decay) * weights in `module`, a copy of the model to evaluate.

    Floating-point parameters and buffers are averaged, others are copied. A tensor with several names is updated once
    per step; timm's own loop would update it once per name.
    """

    def apply_update_(self, model: nn.Module, decay: float) -> None:
        """Update the averages with the weights of this step; `update` calls this method without gradients."""
        averages, weights = (
            {name: own_part(tensor) for name, tensor in unique_state(module).items()} for module in (self.module, model)
        )
        floats = [name for name, average in averages.items() if average.is_floating_point()]
        torch._foreach_lerp_([averages[name] for name in floats], [weights[name] for name in floats], 1 - decay)
        for name in averages.keys() - set(floats):
            averages[name].copy_(weights[name])

    def averages(self) -> dict[str, Tensor]:
        """The averages by name, shared tensors once; a checkpoint holds them as "ema_state"."""
        return {name: average.detach() for name, average in unique_state(self.module).items()}

    @torch.no_grad()
    def load_averages(self, state: Mapping[str, Tensor]) -> None:
        """Replace the averages by those of a checkpoint. Raises InputError if the names do not match."""
        averages = self.averages()
        if different := state.keys() ^ averages.keys():
            raise InputError(f"ema_state of the checkpoint does not fit the model: {', '.join(sorted(different)[:5])}")
        for name, tensor in state.items():
            averages[name].copy_(tensor)


def build_ema(model: nn.Module, options: DictConfig) -> ModelEma:
    """Build the average that train.model_ema describes. It begins with the weights of the model.

    Args:
        model: the model on its device, with its initial weights.
        options: the node train.model_ema. With `use_warmup`, the decay of step t is the smaller one of `decay` and
            1 - (1 + t / warmup_gamma) ** -warmup_power.

    Returns:
        The average.
    """
    return ModelEma(
        model,
        decay=options.decay,
        use_warmup=options.use_warmup,
        warmup_gamma=options.warmup_gamma,
        warmup_power=options.warmup_power,
    )
