"""Converts detrex's dicts into our tensors: the stages of each query group, matches and targets.

detrex has one dict per stage, of which the last one holds the others (`pred_logits`, `pred_boxes`, `aux_outputs`),
matches as pairs of index tensors, and one dict of objects per image. Only this file depends on these forms; it does
not import detrex.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from crossstage.structures import PaddedTargets, StageOutputs, Target

GROUPS = ("matching", "denoising", "one_to_many", "proposals")
"""The query groups in detrex's models; `proposals` are those of the encoder."""

Outputs = Mapping[str, Any]
"""The outputs of a detrex model for one stage, or for the last stage and those before it."""

Indices = list[tuple[Tensor, Tensor]]
"""detrex's matches of one stage: (queries int64 [P], objects int64 [P]) of each image."""

_DENOISING_KEYS = ("output_known_lbs_bboxes", "denoising_output")  # DINO's, in its third argument; DN-DETR's


class DetrexCriterion(Protocol):
    """What is used of detrex's SetCriterion. Its subclasses compute further losses, with further arguments."""

    num_classes: int
    alpha: float
    gamma: float
    loss_labels: Callable[..., dict[str, Tensor]]
    loss_boxes: Callable[..., dict[str, Tensor]]

    def __call__(self, outputs: Outputs, targets: Any, *arguments: Any, **keywords: Any) -> Any:
        """All losses of a step, by detrex's names."""
        ...


@dataclass(frozen=True)
class StageGroup:
    """The stages of one query group as detrex's dicts.

    Attributes:
        name: name of the group, in `GROUPS`.
        stages: one dict per stage (`pred_logits`, `pred_boxes`), the last stage last.
    """

    name: str
    stages: tuple[Outputs, ...]

    def stage_keys(self) -> list[int]:
        """The key of each stage. detrex copies the dicts, but passes on the same tensor `pred_logits`."""
        return [stage_key(stage) for stage in self.stages]

    def outputs(self) -> StageOutputs:
        """All stages as tensors of at least float32."""
        return StageOutputs(self._stacked("pred_logits"), self._stacked("pred_boxes"))

    def _stacked(self, key: str) -> Tensor:
        value = torch.stack([stage[key] for stage in self.stages])
        return value.to(torch.promote_types(value.dtype, torch.float32))


def stage_key(stage: Outputs) -> int:
    """The key of a stage: the identity of its `pred_logits`, which is valid while this tensor exists."""
    return id(stage["pred_logits"])


def stage_groups(outputs: Outputs, *others: Any) -> list[StageGroup]:
    """Find the query groups in the arguments of a detrex criterion.

    H-DETR calls its criterion a second time with only the one-to-many outputs. The first call contains them too, and
    this function marks them then.

    Args:
        outputs: the first argument of the criterion.
        *others: its further arguments (DINO's `dn_meta`).

    Returns:
        The groups.
    """
    if "pred_logits_one2many" in outputs:
        outputs["pred_logits_one2many"].stage_group = "one_to_many"
    name = getattr(outputs["pred_logits"], "stage_group", "matching")
    groups = [StageGroup(name, _stages(outputs))]
    if "enc_outputs" in outputs:
        groups.append(StageGroup("proposals", _stages(outputs["enc_outputs"])))
    for holder in (outputs, *(other for other in others if isinstance(other, Mapping))):
        groups += [StageGroup("denoising", _stages(holder[key])) for key in _DENOISING_KEYS if key in holder]
    return groups


def missing_groups(names: Sequence[str], found: Sequence[StageGroup], outputs: Outputs) -> list[str]:
    """The query groups of `names` that a call of the criterion should have, but has not.

    A call for the one-to-many outputs alone has no other groups, and they are complete.
    """
    present = {group.name for group in found}
    if "one_to_many" in present:
        return []
    if "pred_logits_one2many" in outputs:
        present.add("one_to_many")
    return [name for name in names if name not in present]


def _stages(outputs: Outputs) -> tuple[Outputs, ...]:
    last = {key: value for key, value in outputs.items() if key != "aux_outputs"}
    return (*outputs.get("aux_outputs", ()), last)


def as_matches(indices: Sequence[Indices], like: Tensor) -> Tensor:
    """Convert detrex's matches into one tensor.

    Args:
        indices: for each stage and image, (queries int64 [P], objects int64 [P]).
        like: [S, B, N, 4], gives the shape and the device.

    Returns:
        int64 [S, B, N], the object's index in its image, or -1.
    """
    matches = torch.full(like.shape[:3], -1, dtype=torch.int64)
    for stage, images in enumerate(indices):
        for image, (queries, objects) in enumerate(images):
            matches[stage, image, queries.cpu()] = objects.cpu()  # the matcher's indices are on the CPU already
    return matches.to(like.device, non_blocking=True)


def as_indices(matches: Tensor) -> list[Indices]:
    """Convert int64 [S, B, N] back into (queries int64 [P], objects int64 [P]) for each stage and image, on the CPU."""
    matches = matches.cpu()  # detrex's matches are on the CPU; boolean indexing on the device would synchronise too
    found = [[(image >= 0).nonzero()[:, 0] for image in stage] for stage in matches]
    return [
        [(queries, image[queries]) for queries, image in zip(of_stage, stage, strict=True)]
        for of_stage, stage in zip(found, matches, strict=True)
    ]


def as_targets(targets: Sequence[Mapping[str, Tensor]]) -> PaddedTargets:
    """Convert detrex's targets (per image `labels` int64 [T] and `boxes` [T, 4], normalised cxcywh) into one batch."""
    return PaddedTargets.of([Target(labels=target["labels"], boxes=target["boxes"]) for target in targets])
