"""What a run trains: the wrapped model, its optimizer, the averaged weights, and how all of them are stored."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lightning_fabric import Fabric
from omegaconf import DictConfig
from torch import nn
from torch.optim import Optimizer

from crossstage.engine.ema import ModelEma, build_ema, unique_state
from crossstage.engine.network import LossNetwork
from crossstage.engine.optim import load_optimizer
from crossstage.engine.sharding import WholeCopy, gathered, shard_like, shards, spread, spread_optimizer_state


@dataclass
class Learner:
    """What a step changes.

    Attributes:
        network: the model as Fabric wraps it.
        optimizer: the optimizer as Fabric wraps it.
        model: the model itself.
        ema: its averaged weights, or None.
        copy: whole weights for the evaluation of a sharded model, or None.
    """

    network: Any
    optimizer: Any
    model: nn.Module
    ema: ModelEma | None
    copy: WholeCopy | None = None

    def state_dict(self, *, keep: bool) -> dict[str, Any]:
        """The weights, the optimizer's state and the averages, whole; all processes must call this.

        Args:
            keep: whether this process needs the result.
        """
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        if self.ema is not None:
            state["ema_state"] = self.ema.averages()
        return gathered(state, keep=keep)

    def best_weights(self, *, keep: bool) -> dict[str, Any]:
        """The weights that an evaluation scores, the averaged ones if there are any; as `state_dict`."""
        if self.ema is None:
            return gathered({"model": self.model.state_dict()}, keep=keep)
        averages = gathered(self.ema.averages(), keep=keep)
        return {"model": averages, "ema_state": averages}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned, with any strategy and number of processes. InputError as its parts."""
        self.model.load_state_dict(spread(state["model"], self.model.state_dict()))
        optimizer = self.optimizer.optimizer
        load_optimizer(optimizer, spread_optimizer_state(state["optimizer"], optimizer.param_groups))
        if self.ema is not None:
            averages = state.get("ema_state") or gathered(unique_state(self.model))
            self.ema.load_averages(spread(averages, self.ema.averages()))

    @contextmanager
    def whole(self, model: nn.Module) -> Iterator[nn.Module]:
        """The model, or the module of `ema`, in a form that each process can run alone."""
        if self.copy is None:
            yield model
            return
        with self.copy.holding(model, next(model.parameters()).device) as whole:
            yield whole


def build_learner(
    fabric: Fabric, model: nn.Module, make_optimizer: Callable[[], Optimizer], options: DictConfig
) -> Learner:
    """Wrap a model for training.

    Args:
        fabric: the devices.
        model: the model on its device, with its initial weights.
        make_optimizer: builds the optimizer of the model's parameters, which the strategy may have replaced.
        options: the node train.model_ema.

    Returns:
        The learner.
    """
    ema = build_ema(model, options) if options.enabled else None
    copy = WholeCopy(model) if shards(fabric) else None
    with warnings.catch_warnings():  # torch renames the argument, but Fabric supports versions before and after
        warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
        network = fabric.setup_module(LossNetwork(model))
    if ema is not None and shards(fabric):
        shard_like(ema.module, model)
    return Learner(network, fabric.setup_optimizers(make_optimizer()), model, ema, copy)
