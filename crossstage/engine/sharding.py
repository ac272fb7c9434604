"""train.strategy=fsdp: each process keeps a part of every weight, gradient and optimizer state (FSDP2, `fully_shard`).

Names and order of the parameters stay as they are, so that parameter groups, averages and checkpoints are those of a
run in one process. Checkpoints hold whole tensors. The model is evaluated in a copy of whole weights, because the
processes may have different numbers of images, and a sharded forward pass needs all processes.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def fsdp_strategy(processes: int) -> ModelParallelStrategy:
    """Fabric's strategy for `processes` that share one model."""
    return ModelParallelStrategy(shard, data_parallel_size=processes, tensor_parallel_size=1)


def shard(network: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Replace the parameters of a network by this process's shards; returns the network.

    Each block of the backbone is gathered only while it is used; all other parameters are gathered at the beginning
    of the forward pass and released after the backward pass. Encoder and decoder layers are not gathered one by one:
    FSDP finds tensors only in plain containers, and these layers exchange dataclasses.

    Args:
        network: a `LossNetwork`; FSDP finds the losses in its plain outputs.
        mesh: the processes, as Fabric describes them.
    """
    # Nothing changes the outputs of blocks in place; tests compare the gradients with those of one process.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    across = mesh["data_parallel"]
    for block in blocks_of_backbone(network.get_submodule("model")):
        fully_shard(block, mesh=across)
    fully_shard(network, mesh=across)
    return network


def blocks_of_backbone(model: nn.Module) -> list[nn.Module]:
    """The members of the outermost `nn.Sequential`s of `model.backbone` that share no parameter with other modules."""
    blocks = [
        block for block in _members(getattr(model, "backbone", nn.Module())) if any(True for _ in block.parameters())
    ]
    uses: dict[nn.Parameter, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            uses[parameter] = uses.get(parameter, 0) + 1
    return [block for block in blocks if all(uses[parameter] == 1 for parameter in block.parameters())]


def _members(module: nn.Module) -> Iterator[nn.Module]:
    if isinstance(module, nn.Sequential):
        yield from module
        return
    for child in module.children():
        yield from _members(child)


def shard_like(model: nn.Module, other: nn.Module) -> None:
    """Shard a model of the same parameters, such as the averages, over the processes of `other`; it is never run."""
    meshes = [parameter.device_mesh for parameter in other.parameters() if isinstance(parameter, DTensor)]
    fully_shard(model, mesh=meshes[0])


def shards(fabric: Fabric) -> bool:
    """Whether the strategy of this Fabric shards models."""
    return isinstance(fabric.strategy, ModelParallelStrategy)


def gathered(value: Any, *, keep: bool = True) -> Any:
    """Replace the shards in a tensor, or in nested dicts and lists, by whole tensors; all processes must call this.

    Args:
        value: what may hold shards; everything else in it stays as it is.
        keep: False on the processes that do not need the result: they only send their shards, and get None for them.
    """
    if isinstance(value, DTensor):
        whole = value.full_tensor()
        return whole if keep else None
    if isinstance(value, Mapping):
        return {key: gathered(item, keep=keep) for key, item in value.items()}
    if isinstance(value, list):
        return [gathered(item, keep=keep) for item in value]
    return value


def spread(state: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Cut whole tensors into the shards of this process where `like`, by name, is sharded; all must call this."""
    return {name: _spread(tensor, like.get(name)) for name, tensor in state.items()}


def _spread(tensor: Tensor, like: Tensor | None) -> Tensor:
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


def spread_optimizer_state(state: dict[str, Any], groups: list[dict[str, Any]]) -> dict[str, Any]:
    """Cut the moments of an optimizer's state, whole as in a checkpoint, into shards like those of its parameters.

    Args:
        state: `Optimizer.state_dict()` with whole tensors.
        groups: `Optimizer.param_groups`, in the same order.
    """
    parameters = [parameter for group in groups for parameter in group["params"]]
    moments = {
        index: {
            name: _spread(value, parameters[index]) if _is_moment(value, parameters[index]) else value
            for name, value in of_parameter.items()
        }
        for index, of_parameter in state["state"].items()
    }
    return {**state, "state": moments}


def _is_moment(value: Any, parameter: Tensor) -> bool:
    """Whether an entry of an optimizer's state has one number per weight; a step count has a single one."""
    return isinstance(value, Tensor) and value.shape == parameter.shape


def own_part(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class WholeCopy:
    """A copy of a model, with whole weights, in which a sharded model is evaluated; on the CPU between evaluations.

    Args:
        model: the model before it is sharded.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = copy.deepcopy(model).cpu()

    @contextmanager
    def holding(self, model: nn.Module, device: torch.device) -> Iterator[nn.Module]:
        """Gather the weights of `model` into the copy, on `device`; all processes must enter."""
        self._model.load_state_dict(gathered(model.state_dict()))
        try:
            yield self._model.to(device)
        finally:
            self._model.cpu()
