"""The model as Fabric wraps it, and a check of its weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crossstage.engine.ema import unique_state
from crossstage.engine.sharding import own_part
from crossstage.errors import NonFiniteError
from crossstage.structures import ImageBatch


class Envelope:
    """Wraps a batch, because Fabric would otherwise copy the dataclass and convert its tensors."""

    def __init__(self, batch: ImageBatch) -> None:
        self.batch = batch


class LossNetwork(nn.Module):
    """The module that Fabric wraps: it unwraps the batch and calls the model, its only submodule."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, envelope: Envelope) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """The fields of `Losses` in a tuple and dicts, in which Fabric and DDP can find the tensors."""
        losses = self.model(envelope.batch)
        return losses.total, dict(losses.terms), dict(losses.metrics)


def check_finite(model: nn.Module, iteration: int) -> None:
    """Raise NonFiniteError, which names tensors, if weights are not finite; needs one transfer from the device."""
    floats = {name: tensor for name, tensor in unique_state(model).items() if tensor.is_floating_point()}
    finite = torch.stack([own_part(tensor.detach()).isfinite().all() for tensor in floats.values()]).tolist()
    if bad := [name for name, is_finite in zip(floats, finite, strict=True) if not is_finite]:
        raise NonFiniteError(f"iteration {iteration}: weights not finite, nothing was saved: {', '.join(bad[:5])}")
