"""The supervisions of a model's node, for functions that change a config."""

from collections.abc import Sequence
from typing import Any

from crossstage.config.names import suggestion


def supervisions(model: Any, groups: Sequence[str], *, needed_by: str) -> dict[str, Any]:
    """The nodes at `criterion.groups` of some query groups, by name; a change of them changes the model.

    Args:
        model: a model's node.
        groups: names of query groups.
        needed_by: the function that the user has called, for the message.

    Raises:
        ValueError: for a model without a criterion, or an unknown group.
    """
    if "criterion" not in model or "groups" not in model.criterion:
        raise ValueError(f"{needed_by} needs a model node that has `criterion.groups`, such as that of projects/dino")
    known = list(model.criterion.groups)
    for group in groups:
        if group not in known:
            hint = suggestion(group, known)
            raise ValueError(f"groups={list(groups)}: the model has no query group {group!r}. It has: {known}.{hint}")
    return {group: model.criterion.groups[group] for group in groups}
