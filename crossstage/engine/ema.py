"""An exponential moving average of a model's weights, by timm."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from omegaconf import DictConfig
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from crossstage.errors import InputError


def unique_state(model: nn.Module) -> dict[str, Tensor]:
    """The live tensors of `model.state_dict()`, each once: of several names of a shared tensor, the first."""
    seen: set[int] = set()
    unique = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            unique[name] = tensor
    return unique


class ModelEma(ModelEmaV3):
    """Keeps average = decay * average + (1 - decay) * weights in `module`, a copy of the model to evaluate.

    Floating-point parameters and buffers are averaged, others are copied. A tensor that the model has under several
    names moves once per step; timm's own loop would move it once per name.
    """

    def apply_update_(self, model: nn.Module, decay: float) -> None:
        """Take in the weights of this step; `update` calls it without gradients."""
        averages, weights = unique_state(self.module), unique_state(model)
        floats = [name for name, average in averages.items() if average.is_floating_point()]
        torch._foreach_lerp_([averages[name] for name in floats], [weights[name] for name in floats], 1 - decay)
        for name in averages.keys() - set(floats):
            averages[name].copy_(weights[name])

    def averages(self) -> dict[str, Tensor]:
        """The averages by name, shared tensors once: what a checkpoint holds as "ema_state"."""
        return {name: average.detach() for name, average in unique_state(self.module).items()}

    @torch.no_grad()
    def load_averages(self, state: Mapping[str, Tensor]) -> None:
        """Take over averages. Raises InputError if the names are not those of the model."""
        averages = self.averages()
        if different := state.keys() ^ averages.keys():
            raise InputError(f"ema_state of the checkpoint does not fit the model: {', '.join(sorted(different)[:5])}")
        for name, tensor in state.items():
            averages[name].copy_(tensor)


def build_ema(model: nn.Module, options: DictConfig) -> ModelEma:
    """The average that train.model_ema describes, which begins with the model's weights.

    Args:
        model: on its device, with its initial weights.
        options: `decay`; with `use_warmup` the decay of step t is 1 - (1 + t / warmup_gamma) ** -warmup_power as long
            as that is less.
    """
    return ModelEma(
        model,
        decay=options.decay,
        use_warmup=options.use_warmup,
        warmup_gamma=options.warmup_gamma,
        warmup_power=options.warmup_power,
    )
