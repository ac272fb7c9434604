"""Child nodes that are built once per stage.

A class lists the arguments that it builds per stage in its attribute `per_stage`; `instantiate` passes a
`StageFactory` for each of them:

    class Decoder(nn.Module):
        per_stage = ("layer",)

        def __init__(self, layer, *, num_layers: int) -> None:
            super().__init__()
            (layer,) = stage_factories(self, layer=layer)
            self.layers = nn.ModuleList(layer(stage) for stage in range(num_layers))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from omegaconf import DictConfig

from crossstage.config.names import dotted_name
from crossstage.config.nodes import as_config
from crossstage.errors import InputError


class NodeNeededError(InputError, TypeError):
    """An argument is not a config node, although each stage must build its own object from it."""


@dataclass(frozen=True, eq=False)
class StageFactory:
    """Builds a child node again for each stage.

    Every target in the node, at any depth, whose signature has a parameter `stage` receives the stage's number.
    """

    node: DictConfig

    def __call__(self, stage: int) -> Any:
        """Build the node for one stage, counted from 0."""
        from crossstage.config.instantiate import instantiate  # imports this file, because it makes the factories

        return instantiate(self.node, stage=stage)


StageNode: TypeAlias = StageFactory | Mapping[str, Any]
"""What a constructor takes for a part that each stage builds: from `instantiate` a factory, in Python a config node."""


def stage_factories(owner: object, **arguments: Any) -> tuple[StageFactory, ...]:
    """Check the per-stage arguments of a constructor.

    Args:
        owner: the object that is being constructed; errors name its class.
        **arguments: a StageFactory or a config node for each name.

    Returns:
        A StageFactory per argument, in their order.

    Raises:
        NodeNeededError: a TypeError, for anything else, such as a built module, which all stages would share.
    """
    return tuple(stage_factory(type(owner).__name__, name, value) for name, value in arguments.items())


def stage_factory(owner: str, name: str, value: Any) -> StageFactory:
    """`stage_factories` for one argument of a class with the name `owner`."""
    if isinstance(value, StageFactory):
        return value
    if isinstance(value, Mapping) and "_target_" in value:
        return StageFactory(as_config(value))
    if isinstance(value, type) or not callable(value):
        raise NodeNeededError(
            f"{owner}: {name}={value!r}: expected a config node, L(...)(...), which each stage builds"
        )
    kind = type(value)
    raise NodeNeededError(
        f"{owner}: {name} is a built {dotted_name(kind) or kind.__name__}, which all stages would share; "
        f"give a config node, L({kind.__name__})(...), which each stage builds"
    )
