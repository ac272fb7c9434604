"""PaQ-DETR in one line of a config: `with_paq(model)`, and its two halves."""

from collections.abc import Mapping
from typing import Any

from crossstage.projects.paq_detr.patterns_config import with_patterns
from crossstage.projects.paq_detr.quality_config import with_quality

__all__ = ["with_paq", "with_patterns", "with_quality"]


def with_paq(model: Any, *, patterns: Mapping[str, Any] | None = None, quality: Mapping[str, Any] | None = None) -> Any:
    """Return a copy of a model node with both halves of PaQ-DETR: shared patterns and quality-aware assignment.

    Args:
        model: a LazyConfig node with `queries` and `criterion`.
        patterns: options of `with_patterns`.
        quality: options of `with_quality`.

    Returns:
        The changed copy.
    """
    return with_quality(with_patterns(model, **(patterns or {})), **(quality or {}))
