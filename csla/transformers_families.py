"""The detectors of Hugging Face transformers that take cross-stage labels: their class losses, and which are refused.

transformers has one loss function for several models. It builds a criterion, whose class loss is here a function of
(criterion, logits [B, N, K], scores [B, N, K], num_boxes) -> 0-d; the scores are those of `csla.cross_stage_scores`.
With the labels of the own stage alone, each equals the class loss of transformers.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from crossstage.errors import InputError

OLDEST, FULL = (4, 52), (5, 18)  # versions: the first with this interface for all models; see `_warn_of_denoising`
DENOISING = ("RTDetrForObjectDetectionLoss", "DFineForObjectDetectionLoss")  # the loss functions that it is about
SUPPORTED = (
    "Deformable-DETR, Conditional-DETR, DAB-DETR, RT-DETR, RT-DETRv2, D-FINE, DEIMv2, LW-DETR and RF-DETR "
    "(...ForObjectDetection)"
)


class UnsupportedModelError(InputError, ValueError):
    """A model that cannot take cross-stage labels; the message says why, and what to do."""


def focal(criterion: Any, logits: Tensor, scores: Tensor, num_boxes: float) -> Tensor:
    """The sigmoid focal loss (RetinaNet, eq. 5), by transformers' own function so that it agrees to the last bit."""
    from transformers.loss.loss_for_object_detection import sigmoid_focal_loss

    labels = (scores >= 0).to(logits.dtype)
    return sigmoid_focal_loss(logits, labels, num_boxes, alpha=criterion.focal_alpha, gamma=2) * logits.shape[1]


def varifocal(criterion: Any, logits: Tensor, scores: Tensor, num_boxes: float) -> Tensor:
    """The varifocal loss (VarifocalNet, eq. 2): the IoU is both the target and the weight of a positive."""
    negative = criterion.alpha * logits.detach().sigmoid().pow(criterion.gamma)
    targets = scores.clamp(min=0).to(logits.dtype)
    weights = torch.where(scores >= 0, targets, negative.to(logits.dtype))
    return F.binary_cross_entropy_with_logits(logits, targets, weights, reduction="sum") / num_boxes


def matchability_aware(criterion: Any, logits: Tensor, scores: Tensor, num_boxes: float) -> Tensor:
    """The matchability-aware loss (DEIM, section 3.3): a power of the IoU is the target, and positives weigh 1."""
    negative = logits.detach().sigmoid().pow(criterion.gamma)
    if criterion.mal_alpha is not None:
        negative = criterion.mal_alpha * negative
    targets = scores.clamp(min=0).pow(criterion.gamma).to(logits.dtype)
    weights = torch.where(scores >= 0, 1, negative).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, targets, weights, reduction="sum") / num_boxes


def iou_aware(criterion: Any, logits: Tensor, scores: Tensor, num_boxes: float) -> Tensor:
    """The IoU-aware cross-entropy (IA-BCE of Align-DETR): a mean of score and IoU is the target of a positive."""
    probability, alpha = logits.sigmoid(), criterion.focal_alpha
    quality = (probability.detach().pow(alpha) * scores.clamp(min=0).pow(1 - alpha)).clamp(min=0.01)
    positive = torch.where(scores >= 0, quality, 0)
    negative = torch.where(scores >= 0, 1 - quality, probability.pow(2))
    return -(positive * F.logsigmoid(logits) + negative * F.logsigmoid(-logits)).sum() / num_boxes


@dataclass(frozen=True)
class Family:
    """The models of one loss function of transformers.

    Attributes:
        criterion: the name by which the loss function finds the class of its criterion.
        loss: the name of the class loss in the criterion's calls of `get_loss`.
        key: the name of the class loss in the result.
        class_loss: the class loss, see above.
    """

    criterion: str
    loss: str
    key: str
    class_loss: Callable[[Any, Tensor, Tensor, float], Tensor]


FAMILIES = {
    "DeformableDetrForObjectDetectionLoss": Family("DeformableDetrImageLoss", "labels", "loss_ce", focal),
    "RTDetrForObjectDetectionLoss": Family("RTDetrLoss", "vfl", "loss_vfl", varifocal),
    "DFineForObjectDetectionLoss": Family("DFineLoss", "vfl", "loss_vfl", varifocal),
    "Deimv2ForObjectDetectionLoss": Family("Deimv2Loss", "mal", "loss_mal", matchability_aware),
    "LwDetrForObjectDetectionLoss": Family("LwDetrImageLoss", "labels", "loss_ce", iou_aware),
}
"""By the name of the loss function."""


def family_of(loss_function: Any) -> Family | None:
    """The family of a loss function, or None if it is not one of those in `FAMILIES`."""
    own = getattr(loss_function, "__module__", "").startswith("transformers.loss.")
    return FAMILIES.get(getattr(loss_function, "__name__", "")) if own else None


def check_model(model: Any, loss_function: Any) -> None:
    """Raise an error, with the reason, unless a model of transformers can take cross-stage labels.

    Args:
        model: what `with_csla` was given.
        loss_function: the model's loss function without cross-stage labels, or None.

    Raises:
        ImportError: for a version of transformers that is too old.
        UnsupportedModelError: for anything else.
    """
    import transformers
    from packaging.version import Version

    name, version = type(model).__name__, Version(transformers.__version__).release
    if version < OLDEST:
        raise ImportError(f"csla.transformers needs transformers 4.52 or newer; found {transformers.__version__}")
    if not isinstance(model, transformers.PreTrainedModel):
        raise UnsupportedModelError(
            f"{name} is not a model of transformers; expected {SUPPORTED}. If it wraps one (DistributedDataParallel, "
            "PEFT, torch.compile), call with_csla on the model inside, before it is wrapped"
        )
    if family_of(loss_function) is None:
        raise UnsupportedModelError(f"{name}: {_reason(loss_function)}; expected {SUPPORTED}")
    if not model.config.auxiliary_loss:
        raise UnsupportedModelError(
            f"{name}.config.auxiliary_loss=False: without losses of its own no stage but the last gets labels; give "
            "auxiliary_loss=True to the config or to from_pretrained"
        )
    _warn_of_denoising(name, loss_function, model.config, version)


def _reason(loss_function: Any) -> str:
    """Why this loss function does not take cross-stage labels."""
    name = getattr(loss_function, "__name__", type(loss_function).__name__)
    if name == "ForObjectDetectionLoss":
        return "its class loss is a softmax (as in DETR, YOLOS and Table Transformer), which takes one label per query"
    if "GroundingDino" in name:
        return "its classes are the words of a text"
    if "Segmentation" in name:
        return "segmentation is not supported"
    return f"its loss function is {name}, which csla.transformers does not know"


def _warn_of_denoising(name: str, loss_function: Any, config: Any, version: tuple[int, ...]) -> None:
    """Warn where the losses differ from transformers' in more than the labels.

    Before 5.18 the losses of the last stage of RT-DETR and D-FINE also covered the denoising queries, with matches of
    their own (corrected by https://github.com/huggingface/transformers/pull/48528). These queries are cut off here.
    """
    if loss_function.__name__ in DENOISING and version < FULL and getattr(config, "num_denoising", 0) > 0:
        warnings.warn(
            f"{name}: before transformers 5.18 the last stage's losses also cover the denoising queries; with_csla "
            "leaves them out. Compare with and without CSLA in transformers 5.18 or newer only",
            stacklevel=4,
        )
