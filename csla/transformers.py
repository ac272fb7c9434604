"""Cross-stage labels for the detectors of Hugging Face transformers, with one line after `from_pretrained`.

A detector of transformers calls `self.loss_function(...)`, which may be set for each model. This function builds a
criterion, which matches one stage, computes its losses and continues with the next stage. `CrossStageLoss` runs the
model's own function with a wrapper around this criterion: it matches all stages first, because the labels of a stage
depend on the matches of other stages, and computes the class losses of the decoder's stages. All other losses, the
weights and the normalisers are those of transformers. Nothing is changed outside of the model.

transformers is imported by the first call. `csla.transformers_families` has the class losses.
"""

import inspect
from collections.abc import Mapping
from types import FunctionType
from typing import Any, TypeVar

import torch
from torch import Tensor

from crossstage.structures import PaddedTargets, Target
from csla.detrex_stages import Indices, as_matches
from csla.labels import cross_stage_scores
from csla.rule import CrossStageLabels
from csla.shadowed import shadowed
from csla.transformers_families import Family, check_model, family_of

_Model = TypeVar("_Model")


def with_csla(
    model: _Model,
    *,
    iou_threshold: float = 0.5,
    look_back: int | None = 1,
    look_ahead: int | None = None,
    filter_own: bool = True,
    plain_last_stages: int = 0,
) -> _Model:
    """Let a detector of transformers learn class labels across stages. A second call replaces the options.

    The given model is changed: its `loss_function` is set. What it saves does not change, so the line has to be
    repeated after each `from_pretrained`. The options are those of `csla.labels.kept_stages`.

    Args:
        model: one of `csla.transformers_families.SUPPORTED`, with `auxiliary_loss=True`.
        iou_threshold: smallest IoU of a stage's box with an object.
        look_back: number of earlier stages in the window; None means all.
        look_ahead: number of later stages in the window; None means all.
        filter_own: whether the threshold also applies to the stage's own match.
        plain_last_stages: number of last stages that keep only their own match.

    Returns:
        The model.

    Raises:
        UnsupportedModelError: for a model whose loss does not take cross-stage labels, and for a wrapped model.
        ImportError: for transformers before 4.52.
        ValueError: for an option with an impossible value.
    """
    options: dict[str, Any] = {"iou_threshold": iou_threshold, "look_back": look_back, "look_ahead": look_ahead}
    options |= {"filter_own": filter_own, "plain_last_stages": plain_last_stages}
    CrossStageLabels(**options)  # an impossible option must fail here, not in the first step
    plain: Any = getattr(model, "loss_function", None)
    plain = plain.plain if isinstance(plain, CrossStageLoss) else plain
    check_model(model, plain)
    model.loss_function = CrossStageLoss(plain, options)  # type: ignore[attr-defined]
    return model


class CrossStageLoss:
    """A loss function of transformers with cross-stage labels. It keeps nothing between calls.

    Args:
        plain: the loss function, one of `csla.transformers_families.FAMILIES`.
        options: options of `csla.labels.kept_stages`.
    """

    def __init__(self, plain: Any, options: Mapping[str, Any]) -> None:
        self.plain, self.options = plain, dict(options)

    @torch.compiler.disable  # dynamo writes into the globals of a function that it traces; here these are a copy
    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Compute the losses; arguments and results are those of the plain function."""
        family, plain = family_of(self.plain), self.plain
        assert family is not None  # with_csla has checked it
        proposals = inspect.signature(plain).bind(*arguments, **keywords).arguments.get("enc_topk_logits")

        def criterion(*arguments: Any, **keywords: Any) -> _CrossStageCriterion:
            built = plain.__globals__[family.criterion](*arguments, **keywords)
            return _CrossStageCriterion(built, family, self.options, proposals=proposals)

        # The same code in a copy of its globals, in which the criterion's name is ours. To replace the name in the
        # module would change all models, and those in other threads during the call.
        own = {**plain.__globals__, family.criterion: criterion}
        function = FunctionType(plain.__code__, own, plain.__name__, plain.__defaults__, plain.__closure__)
        function.__kwdefaults__ = plain.__kwdefaults__
        return function(*arguments, **keywords)


class _CrossStageCriterion:
    """Takes the place of transformers' criterion in one call of the loss function.

    Args:
        criterion: the criterion, which computes all but the class losses of the decoder's stages.
        family: the family of the loss function.
        options: options of `csla.labels.kept_stages`.
        proposals: the logits of the encoder's proposals where they stand among the stages, or None.
    """

    def __init__(self, criterion: Any, family: Family, options: Mapping[str, Any], *, proposals: Tensor | None) -> None:
        self.criterion, self.family, self.options, self.proposals = criterion, family, options, proposals
        self.plain_matcher, self.plain_get_loss = criterion.matcher, criterion.get_loss
        self.stages: tuple[Mapping[str, Any], ...] = ()
        self.indices: dict[int, Indices] = {}  # by the identity of a stage's logits: dicts are copied, tensors are not
        self.scores: dict[int, Tensor] = {}
        self.called: set[int] = set()

    def to(self, device: Any) -> "_CrossStageCriterion":
        """Move the criterion."""
        self.criterion.to(device)
        return self

    def __call__(self, outputs: Mapping[str, Any], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Compute all losses by transformers' names.

        Raises:
            RuntimeError: if this version of transformers works in another way than those that were tested.
        """
        outputs = _without_denoising(outputs)
        auxiliary = outputs.get("auxiliary_outputs", [])
        self.stages = (*(stage for stage in auxiliary if stage["logits"] is not self.proposals), outputs)
        with shadowed(self.criterion, matcher=self.match, get_loss=self.get_loss):
            losses = self.criterion(outputs, targets)
        found = not auxiliary or len(self.stages) == len(auxiliary) + (self.proposals is None)
        if not found or self.called != set(self.scores):
            raise RuntimeError(
                f"{type(self.criterion).__name__} of this transformers gives its stages in a form that is not known: "
                f"{len(self.called)} of {len(self.stages)} class losses; use a version that csla/README.md names"
            )
        return losses

    def match(self, outputs: Mapping[str, Any], targets: Any, *arguments: Any, **keywords: Any) -> Indices:
        """The matches of a stage; the first call matches all stages, with the same further arguments."""
        if not self.indices:
            found = [self.plain_matcher(stage, targets, *arguments, **keywords) for stage in self.stages]
            keys = [id(stage["logits"]) for stage in self.stages]
            self.indices = dict(zip(keys, found, strict=True))
            self.scores = dict(zip(keys, self._scores(found, targets), strict=True))
        known = self.indices.get(id(outputs["logits"]))
        return self.plain_matcher(outputs, targets, *arguments, **keywords) if known is None else known

    def get_loss(self, loss: str, outputs: Mapping[str, Any], targets: Any, indices: Any, num_boxes: float) -> Any:
        """The losses of one kind at a stage. The class loss of the decoder's stages has cross-stage labels."""
        key = id(outputs["logits"])
        if loss != self.family.loss or key not in self.scores:
            return self.plain_get_loss(loss, outputs, targets, indices, num_boxes)
        self.called.add(key)
        value = self.family.class_loss(self.criterion, outputs["logits"], self.scores[key], num_boxes)
        return {self.family.key: value}

    def _scores(self, indices: list[Indices], targets: list[dict[str, Tensor]]) -> Tensor:
        """`cross_stage_scores` of all stages, [S, B, N, K], in at least float32."""
        boxes = torch.stack([stage["pred_boxes"].detach() for stage in self.stages])
        boxes = boxes.to(torch.promote_types(boxes.dtype, torch.float32))
        padded = PaddedTargets.of([Target(labels=one["class_labels"], boxes=one["boxes"]) for one in targets])
        return cross_stage_scores(
            as_matches(indices, boxes),
            boxes,
            padded.labels,
            padded.boxes.to(boxes.dtype),
            num_classes=self.stages[0]["logits"].shape[-1],
            **self.options,
        )


def _without_denoising(outputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Cut the denoising queries from the last stage, which transformers itself does since 5.18."""
    sizes = outputs.get("denoising_meta_values", {}).get("dn_num_split")
    if sizes is None or outputs["logits"].shape[1] != sum(sizes):
        return outputs
    return {**outputs, **{key: outputs[key].split(sizes, dim=1)[1] for key in ("logits", "pred_boxes")}}
