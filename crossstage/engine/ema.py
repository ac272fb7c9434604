"""An exponential moving average of a model's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
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


class ModelEma:
    """Keeps average = decay * average + (1 - decay) * weights, for floating-point parameters and buffers.

    Integer buffers are copied. The averages have the device and dtype of the weights.
    """

    def __init__(self, model: nn.Module, *, decay: float = 0.999) -> None:
        self.decay = decay
        self._model = model
        self._average = {name: tensor.detach().clone() for name, tensor in unique_state(model).items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights of this step in."""
        live = unique_state(self._model)  # anew each time: a module may have replaced a buffer
        floats = [name for name, tensor in live.items() if tensor.is_floating_point()]
        average = [self._average[name] for name in floats]
        torch._foreach_lerp_(average, [live[name].detach() for name in floats], 1 - self.decay)
        for name in live.keys() - set(floats):
            self._average[name].copy_(live[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model computes with the averages; afterwards, whatever happens, with its own weights again."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def buffers(self) -> list[Tensor]:
        """The averages of the model's buffers."""
        live = unique_state(self._model)
        return [average for name, average in self._average.items() if not isinstance(live[name], nn.Parameter)]

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by name, shared tensors once."""
        return dict(self._average)

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over averages. Raises InputError if the names are not those of the model."""
        if different := state.keys() ^ self._average.keys():
            raise InputError(f"ema_state of the checkpoint does not fit the model: {', '.join(sorted(different)[:5])}")
        for name, tensor in state.items():
            self._average[name].copy_(tensor)

    def _swap(self) -> None:
        # Exchanging storage costs no memory and brings back exactly the bits that were there.
        for name, tensor in unique_state(self._model).items():
            tensor.data, self._average[name] = self._average[name], tensor.data
