"""Parts by name: registered as modules, under their own type."""

from collections.abc import Mapping
from typing import TypeVar, cast

from torch import nn

Part = TypeVar("Part")


def module_dict(parts: Mapping[str, Part]) -> Mapping[str, Part]:
    """An `nn.ModuleDict` of the parts, so that they are trained, moved and saved.

    Its values are typed as what they are; `nn.ModuleDict` types them all as `nn.Module`, which hides their attributes
    from a type checker. It has every method of a Mapping but `get`.

    Raises:
        TypeError: if a part is not an nn.Module.
    """
    return cast(Mapping[str, Part], nn.ModuleDict(cast(Mapping[str, nn.Module], parts)))
