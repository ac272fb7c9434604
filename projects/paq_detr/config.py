"""PaQ-DETR in one line of a config: `with_paq(model)`, and its parts."""

from collections.abc import Mapping
from typing import Any

from crossstage.projects.paq_detr.patterns_config import with_patterns

__all__ = ["with_paq", "with_patterns"]


def with_paq(model: Any, *, patterns: Mapping[str, Any] | None = None) -> Any:
    """Return a copy of a model node with the parts of PaQ-DETR: contents from shared patterns.

    Args:
        model: a LazyConfig node with `queries` and `criterion`.
        patterns: options of `with_patterns`.

    Returns:
        The changed copy.
    """
    return with_patterns(model, **(patterns or {}))
