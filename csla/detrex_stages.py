"""detrex's dicts as our tensors: the stages of each group of queries, matches and targets.

detrex has a dict a stage, with the last one on top (`pred_logits`, `pred_boxes`, `aux_outputs`), matches as pairs of
index tensors, and a dict of objects an image. This file knows these forms; it imports nothing of detrex.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from crossstage.structures import PaddedTargets, StageOutputs, Target

GROUPS = ("matching", "denoising", "one_to_many", "proposals")
"""The groups of queries in detrex's models; `proposals` are the encoder's."""

Outputs = Mapping[str, Any]
"""What a detrex model says of one stage, or of a stage and those before it."""

Indices = list[tuple[Tensor, Tensor]]
"""detrex's matches of one stage: (queries int64 [P], objects int64 [P]) of each image."""

_DENOISING_KEYS = ("output_known_lbs_bboxes", "denoising_output")  # DINO's, in its third argument; DN-DETR's


class DetrexCriterion(Protocol):
    """What is used of detrex's SetCriterion. Its subclasses compute further losses, with further arguments."""

    matcher: Callable[[Outputs, Any], Indices]
    losses: Sequence[str]
    loss_class_type: str
    alpha: float
    gamma: float
    loss_labels: Callable[..., dict[str, Tensor]]
    loss_boxes: Callable[..., dict[str, Tensor]]

    def __call__(self, outputs: Outputs, targets: Any, *arguments: Any, **keywords: Any) -> Any:
        """All losses of a step, by detrex's names."""
        ...


@dataclass(frozen=True)
class StageGroup:
    """The stages of one group of queries, in detrex's dicts (`pred_logits`, `pred_boxes`), the last stage last.

    matched: whether the matcher is asked for it, with the targets that the criterion is called with.
    """

    name: str
    stages: tuple[Outputs, ...]
    matched: bool

    def stage_keys(self) -> list[int]:
        """What a stage is known by: its `pred_logits`. detrex hands on the same tensor, in whatever dict."""
        return [stage_key(stage) for stage in self.stages]

    def outputs(self) -> StageOutputs:
        """All stages as tensors, float32 at least."""
        return StageOutputs(self._stacked("pred_logits"), self._stacked("pred_boxes"))

    def _stacked(self, key: str) -> Tensor:
        value = torch.stack([stage[key] for stage in self.stages])
        return value.to(torch.promote_types(value.dtype, torch.float32))


def stage_key(stage: Outputs) -> int:
    """What a stage is known by, as long as its outputs live."""
    return id(stage["pred_logits"])


def stage_groups(outputs: Outputs, *others: Any) -> list[StageGroup]:
    """The groups of queries in what a detrex model hands to its criterion.

    others: the criterion's further arguments (DINO's `dn_meta`). H-DETR calls its criterion a second time with the
    one-to-many outputs alone; they were in the first call, which marks them.
    """
    if "pred_logits_one2many" in outputs:
        outputs["pred_logits_one2many"].stage_group = "one_to_many"
    name = getattr(outputs["pred_logits"], "stage_group", "matching")
    groups = [StageGroup(name, _stages(outputs), matched=True)]
    if "enc_outputs" in outputs:
        groups.append(StageGroup("proposals", _stages(outputs["enc_outputs"]), matched=False))
    for holder in (outputs, *(other for other in others if isinstance(other, Mapping))):
        groups += [StageGroup("denoising", _stages(holder[key]), False) for key in _DENOISING_KEYS if key in holder]
    return groups


def _stages(outputs: Outputs) -> tuple[Outputs, ...]:
    last = {key: value for key, value in outputs.items() if key != "aux_outputs"}
    return (*outputs.get("aux_outputs", ()), last)


def as_matches(indices: Sequence[Indices], like: Tensor) -> Tensor:
    """detrex's matches as one tensor: int64 [S, B, N], the object's index or -1, on the device of `like` [S, B, N, 4].

    indices: of each stage and image, (queries int64 [P], objects int64 [P]).
    """
    matches = torch.full(like.shape[:3], -1, dtype=torch.int64)
    for stage, images in enumerate(indices):
        for image, (queries, objects) in enumerate(images):
            matches[stage, image, queries.cpu()] = objects.cpu()  # the matcher's: on CPU already
    return matches.to(like.device, non_blocking=True)


def as_indices(matches: Tensor) -> list[Indices]:
    """The way back: int64 [S, B, N] -> for each stage and image, (queries int64 [P], objects int64 [P]) on the CPU."""
    matches = matches.cpu()  # where detrex's matcher has its own; boolean indices of another device would wait as well
    found = [[(image >= 0).nonzero()[:, 0] for image in stage] for stage in matches]
    return [
        [(queries, image[queries]) for queries, image in zip(of_stage, stage, strict=True)]
        for of_stage, stage in zip(found, matches, strict=True)
    ]


def as_targets(targets: Sequence[Mapping[str, Tensor]]) -> PaddedTargets:
    """detrex's targets, `labels` int64 [T] and `boxes` [T, 4] (normalised cxcywh) an image, as one batch."""
    return PaddedTargets.of([Target(labels=target["labels"], boxes=target["boxes"]) for target in targets])
