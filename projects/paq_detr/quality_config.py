"""`with_quality`: adds quality-aware assignment to an existing detector config."""

import copy
from collections.abc import Sequence
from typing import Any

from crossstage.projects.paq_detr.modeling.quality import QualityCopies

from crossstage.config import LazyCall as L
from crossstage.config.groups import supervisions
from crossstage.config.nodes import is_call_of
from crossstage.modeling.supervision.labels import OverlapTargets
from crossstage.modeling.supervision.losses import SoftmaxClassLoss, VarifocalClassLoss
from csla import CrossStageLabels


def with_quality(model: Any, *, groups: Sequence[str] = ("matching",), **options: Any) -> Any:
    """Return a copy of a model node that matches by quality and learns overlaps as class targets.

    - In the named groups, `matcher.copies` becomes `QualityCopies`, and objects count once in the normaliser, as in
      the authors' code. To divide by the positives instead, use `LabelCount` as `normalizer`.
    - In every group, also in denoising, the class loss becomes `VarifocalClassLoss`, and `OverlapTargets` is the first
      of the `adjustments`. Weights of losses and matching costs stay those of the host.
    - Where a named group has CSLA, its `plain_last_stages` becomes at least 1: the last stage would otherwise take over
      the copies of the stage before it, and detections would need NMS. `with_csla` after `with_quality` does the same,
      so that their order plays no role. To try another value, set
      `model.criterion.groups.matching.labels.plain_last_stages` afterwards.

    A second call replaces the options of the groups that it names, and leaves other groups as they are.

    Args:
        model: a LazyConfig node with a `criterion`.
        groups: names of the query groups whose objects get several queries. The authors' fork names "proposals" too,
            which is one-to-one by default here.
        **options: options of `QualityCopies` (k, minimum, gamma, scale, plain_last_stages, share). `plain_last_stages`
            is 0 for "proposals" unless given: they have one stage.

    Returns:
        The changed copy.

    Raises:
        ValueError: for a model without a criterion, an unknown group, a softmax class loss, or an option with an
            impossible value.
        TypeError: for an unknown option.
    """
    QualityCopies(**options)  # an unknown or impossible option must fail here, not later when the model is built
    model = copy.deepcopy(model)
    named = supervisions(model, groups, needed_by="with_quality")
    for name, supervision in model.criterion.groups.items():
        if is_call_of(supervision.class_loss, SoftmaxClassLoss):
            raise ValueError(f"criterion.groups.{name}.class_loss is a softmax; with_quality needs a sigmoid per class")
        supervision.class_loss = L(VarifocalClassLoss)()
        others = [rule for rule in supervision.adjustments if not is_call_of(rule, OverlapTargets)]
        supervision.adjustments = [L(OverlapTargets)(), *others]
    for name, supervision in named.items():
        stages = {"plain_last_stages": 0} if name == "proposals" else {}
        supervision.matcher.copies = L(QualityCopies)(**{**stages, **options})
        if "copies" in supervision.normalizer:
            supervision.normalizer.copies = 1
        if is_call_of(supervision.labels, CrossStageLabels):
            supervision.labels.plain_last_stages = max(1, supervision.labels.plain_last_stages)
    return model
