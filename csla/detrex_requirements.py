"""What the adapter needs of the installed detrex, and of the criterion that it wraps; otherwise an error says what."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from crossstage.config.names import suggestion
from crossstage.layers.focal import sigmoid_focal_loss
from csla.detrex_stages import GROUPS, DetrexCriterion

INSTALL = (
    "csla.detrex needs detrex 0.3 or newer and detectron2 0.6 or newer in this environment; their guides: "
    "https://detrex.readthedocs.io/en/latest/tutorials/Installation.html and "
    "https://detectron2.readthedocs.io/en/latest/tutorials/install.html"
)

ClassLoss = Callable[..., Tensor]
"""(logits [S, B, N, K], labels bool [S, B, N, K], normalizer=number) -> [S]."""

_METHODS = ("loss_labels", "loss_boxes", "get_loss")


def require_detrex() -> type[DetrexCriterion]:
    """Return detrex's SetCriterion. If it is missing or too old, raise an ImportError that says what to install."""
    try:
        from detrex.modeling.criterion import SetCriterion
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if isinstance(error, ModuleNotFoundError) and package not in ("", "detrex", "detectron2"):
            raise ImportError(
                f"csla.detrex: detrex needs the package {package}, which is not installed here: {error}"
            ) from error
        raise ImportError(f"{INSTALL} ({error})") from error
    if not all(hasattr(SetCriterion, name) for name in ("loss_labels", "get_loss")):
        raise ImportError(f"{INSTALL} (this detrex is older: its SetCriterion has no loss_labels and get_loss)")
    return SetCriterion


def check_groups(groups: Any, available: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """Return the names of query groups as a tuple.

    Args:
        groups: names in `csla.detrex_stages.GROUPS`.
        available: whether the model has each group, as far as known.

    Raises:
        ValueError: for a single string, an unknown name, or a group that the model lacks.
    """
    if isinstance(groups, str) or not isinstance(groups, Sequence):
        raise ValueError(f"groups={groups!r}: expected a list of query groups, such as [matching]")
    known = [name for name in GROUPS if (available or {}).get(name, available is None)]
    for name in groups:
        if name not in GROUPS:
            raise ValueError(f"groups={list(groups)}: expected some of {', '.join(GROUPS)}.{suggestion(name, GROUPS)}")
        if name not in known:
            raise ValueError(
                f"groups={list(groups)}: the model has no group {name!r}. It has: {', '.join(known)} "
                "(`available_groups` of its criterion)"
            )
    return tuple(groups)


def check_criterion_class(criterion_class: type, arguments: Mapping[str, Any]) -> None:
    """Raise TypeError for a criterion class that cannot be adapted, as far as known before it is built."""
    name = getattr(criterion_class, "__name__", str(criterion_class))
    if not inspect.isclass(criterion_class):
        return
    if not all(hasattr(criterion_class, method) for method in _METHODS):
        raise TypeError(
            f"csla.detrex adapts criteria that compute their losses as detrex.modeling.SetCriterion does, by "
            f"{', '.join(_METHODS)}; {name} does not"
        )
    kind = arguments.get("loss_class_type")
    if kind is None and (parameter := inspect.signature(criterion_class).parameters.get("loss_class_type")):
        kind = parameter.default
    _check_class_loss_type(name, "focal_loss" if kind in (None, inspect.Parameter.empty) else kind)


def check_criterion(criterion: DetrexCriterion, class_loss: ClassLoss | None) -> None:
    """Raise TypeError for a criterion that is not of detrex's form, or whose class loss takes no multi-hot labels."""
    base, name = require_detrex(), type(criterion).__name__
    check_criterion_class(type(criterion), {"loss_class_type": "focal_loss"})
    if class_loss is None:
        _check_class_loss_type(name, getattr(criterion, "loss_class_type", "focal_loss"))
    own = type(criterion).loss_labels is not base.loss_labels
    if own and (class_loss is None or not isinstance(criterion, base)) and not _has_focal_loss(criterion):
        raise TypeError(
            f"{name} has its own class loss (loss_labels), which does not accept multi-hot labels; give "
            "class_loss=L(...)(...), called as (logits, labels, normalizer=) -> losses of the stages"
        )


def _check_class_loss_type(name: str, kind: str) -> None:
    if kind != "focal_loss":
        raise TypeError(
            f"{name}: loss_class_type={kind!r}; cross-stage labels are multi-hot, and only the sigmoid focal loss "
            "accepts these; expected 'focal_loss'"
        )


def _has_focal_loss(criterion: DetrexCriterion) -> bool:
    """Whether `loss_labels` computes the sigmoid focal loss of one-hot labels, on an example with all classes."""
    generator = torch.Generator().manual_seed(0)
    try:
        classes = criterion.num_classes
        logits = torch.randn(2, classes + 3, classes, generator=generator)
        boxes = torch.rand(2, classes + 3, 4, generator=generator) * 0.5
        queries = [torch.randperm(classes + 3, generator=generator)[:classes] for _ in logits]
        objects = [torch.randperm(classes, generator=generator) for _ in logits]
        targets = [{"labels": torch.arange(classes), "boxes": one[:classes] + 0.1} for one in boxes]
        indices = list(zip(queries, objects, strict=True))
        found = criterion.loss_labels({"pred_logits": logits, "pred_boxes": boxes}, targets, indices, 3.0)
        labels = torch.zeros_like(logits, dtype=torch.bool)
        for image, (taken, classes_of) in enumerate(indices):
            labels[image, taken, classes_of] = True
        expected = sigmoid_focal_loss(logits[None], labels[None], alpha=criterion.alpha, gamma=criterion.gamma)[0] / 3
        return set(found) == {"loss_class"} and torch.allclose(found["loss_class"], expected, rtol=1e-5)
    except Exception:  # a class loss that needs more than detrex's own does not take our labels either
        return False
