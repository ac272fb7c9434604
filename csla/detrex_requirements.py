"""What the adapter needs of the installed detrex, and of the criterion that it wraps; otherwise an error says what."""

from collections.abc import Callable

from torch import Tensor

from csla.detrex_stages import DetrexCriterion

INSTALL = (
    "csla.detrex needs detrex 0.3 or newer and detectron2 0.6 or newer in this environment; their guides: "
    "https://detrex.readthedocs.io/en/latest/tutorials/Installation.html and "
    "https://detectron2.readthedocs.io/en/latest/tutorials/install.html"
)

ClassLoss = Callable[..., Tensor]
"""(logits [S, B, N, K], labels bool [S, B, N, K], normalizer=number) -> [S]."""


def require_detrex() -> type[DetrexCriterion]:
    """Return detrex's SetCriterion. If it is missing or too old, raise an ImportError that says what to install."""
    try:
        from detrex.modeling.criterion import SetCriterion
    except ImportError as error:
        raise ImportError(f"{INSTALL} ({error})") from error
    if not all(hasattr(SetCriterion, name) for name in ("loss_labels", "get_loss")):
        raise ImportError(f"{INSTALL} (this detrex is older: its SetCriterion has no loss_labels and get_loss)")
    return SetCriterion


def check_criterion(criterion: DetrexCriterion, class_loss: ClassLoss | None) -> None:
    """Raise TypeError for a criterion that is not detrex's, or whose class loss takes no multi-hot labels."""
    base, name = require_detrex(), type(criterion).__name__
    if not isinstance(criterion, base):
        raise TypeError(f"csla.detrex adapts criteria that derive from detrex.modeling.SetCriterion; {name} does not")
    if class_loss is not None:
        return
    if criterion.loss_class_type != "focal_loss":
        raise TypeError(
            f"{name}.loss_class_type={criterion.loss_class_type!r}: cross-stage labels are multi-hot, and "
            "only the sigmoid focal loss accepts these; expected 'focal_loss'"
        )
    if type(criterion).loss_labels is not base.loss_labels:
        raise TypeError(
            f"{name} has its own class loss (loss_labels), which does not accept multi-hot labels; give "
            "criterion.class_loss=L(...)(...), called as (logits, labels, normalizer=) -> losses of the stages"
        )
