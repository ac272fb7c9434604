"""`with_patterns`: gives the queries of an existing detector config contents from shared patterns."""

import copy
import inspect
from typing import Any

from crossstage.projects.paq_detr.modeling.content import DenseWeights, FactorizedWeights, PatternContent
from crossstage.projects.paq_detr.modeling.descriptors import MeanDescriptor, PyramidDescriptor
from omegaconf import DictConfig, OmegaConf

from crossstage.config import LazyCall as L
from crossstage.config.names import locate

_SIZES = {
    "width": "${up:descriptor.width}",
    "num_queries": "${up:num_queries}",
    "extra_queries": "${up:extra_queries}",
    "num_patterns": "${up:num_patterns}",
}
PYRAMID_DESCRIPTOR = L(PyramidDescriptor)(embed_dim="${up:embed_dim}", num_levels="${up:neck.num_levels}")
MEAN_DESCRIPTOR = L(MeanDescriptor)(embed_dim="${up:embed_dim}", width="${up:embed_dim}")
FACTORIZED_WEIGHTS = L(FactorizedWeights)(**_SIZES)
DENSE_WEIGHTS = L(DenseWeights)(**_SIZES)


def with_patterns(
    model: Any, *, descriptor: Any = PYRAMID_DESCRIPTOR, weights: Any = FACTORIZED_WEIGHTS, **options: Any
) -> Any:
    """Return a copy of a model node whose queries get their contents from shared patterns.

    Only `queries.source.content` is replaced. Positions, references, query groups and masks stay as they are. A second
    call replaces the result of the first.

    Args:
        model: a LazyConfig node with a `queries.source` that has a `content`.
        descriptor: a node that describes the image: PYRAMID_DESCRIPTOR, MEAN_DESCRIPTOR, or one of your own with a
            value `width`.
        weights: a node that makes the weights: FACTORIZED_WEIGHTS, DENSE_WEIGHTS, or one of your own.
        **options: options of `PatternContent` (num_patterns, diversity, diversity_scale, detach_memory).

    Returns:
        The changed copy.

    Raises:
        ValueError: for a model whose query source has no `content`.
        TypeError: for an unknown option, and for a descriptor or weights that are not nodes.
    """
    inspect.signature(PatternContent).bind_partial(**options)  # an unknown option must fail here, not when it is built
    for name, node in (("descriptor", descriptor), ("weights", weights)):
        if not (isinstance(node, DictConfig) and "_target_" in node):
            raise TypeError(f"{name}={node!r}: expected a config node, such as those in {__name__}")
    source = OmegaConf.select(model, "queries.source")
    if not isinstance(source, DictConfig) or "content" not in source:
        raise ValueError("with_patterns needs a model node with a `queries.source.content`, such as projects/dino's")
    model = copy.deepcopy(model)
    options = {"reserved_channels": _reserved_channels(model), **options}
    content = L(PatternContent)(embed_dim="${up:embed_dim}", descriptor=descriptor, weights=weights, **options)
    if "num_levels" in content.descriptor and "num_levels" not in model.neck:
        content.descriptor.num_levels = len(model.backbone.strides)
    model.queries.source.content = content
    return model


def _reserved_channels(model: DictConfig) -> int:
    """How many channels the extra groups of queries keep for marks of their own."""
    targets = [group._target_ for group in model.queries.get("extra") or ()]
    groups = [locate(target) if isinstance(target, str) else target for target in targets]
    return max((getattr(group, "reserved_channels", 0) for group in groups), default=0)
