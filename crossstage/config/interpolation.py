"""The interpolation `${up:key}`: a value of an enclosing mapping, any number of levels above."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from omegaconf import Container, DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from crossstage.config.names import suggestion


def up(key: str, *, _parent_: Container) -> Any:
    """Look up a key in the enclosing mappings and return the value of the nearest mapping that has the key.

    The search begins above the mapping that holds the interpolation. A node can therefore be moved or wrapped
    without changes to its interpolations.

    Args:
        key: a key, or a dotted path such as `neck.num_levels`.

    Returns:
        The value, resolved.

    Raises:
        InterpolationResolutionError: if no mapping above has the key; names the nearest keys.
    """
    names = key.split(".")
    above = list(_mappings_above(_parent_))
    for mapping in above:
        found, value = _lookup(mapping, names)
        if found:
            return value
    known = [str(name) for mapping in above for name in mapping.keys()]  # noqa: SIM118 (`in` would resolve values)
    raise InterpolationResolutionError(f"${{up:{key}}}: no mapping above has '{key}'.{suggestion(key, known)}")


def _mappings_above(container: Any) -> Iterator[DictConfig]:
    """The mappings around the one that holds an interpolation, innermost first; lists are skipped."""
    while container is not None and not isinstance(container, DictConfig):
        container = container._get_parent()
    while container is not None:
        container = container._get_parent()
        if isinstance(container, DictConfig):
            yield container


def _lookup(value: Any, names: list[str]) -> tuple[bool, Any]:
    """Follow names downwards. A key that exists counts even if its own interpolation is broken: reading it raises."""
    for name in names:
        if not isinstance(value, DictConfig) or name not in list(value.keys()):
            return False, None
        value = value[name]
    return True, value


OmegaConf.register_new_resolver("up", up, replace=True)
