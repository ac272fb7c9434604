"""The predictions of every stage of a detector, and of every step of one that repeats a step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from crossstage.errors import InputError
from crossstage.evaluation.loop import evaluation_mode
from crossstage.evaluation.query_metrics import taught
from crossstage.modeling.detector import Detector, group_named, split_groups
from crossstage.structures import Assignment, ImageBatch, Memory, PaddedTargets, Queries, StageOutputs


@runtime_checkable
class TracedDecoder(Protocol):
    """A decoder that applies one step with shared weights again and again.

    Attributes:
        steps: applications in training, on the way to a fixed point; 0 where there is none.
        applications: applications in evaluation.
        solver: how the states of the steps are made from each other.
    """

    steps: int
    solver: Any

    @property
    def applications(self) -> int:
        """Applications in evaluation."""
        ...

    def trace(self, queries: Queries, memory: Memory, steps: int) -> tuple[StageOutputs, Tensor]:
        """The predictions before the first and after each of `steps` applications, and the residuals."""
        ...


@dataclass(frozen=True)
class EveryStage:
    """What a detector predicts for a batch.

    Attributes:
        queries: what entered the decoder.
        outputs: of the group "matching", every stage; of a decoder that repeats a step, every step.
        first: number of the first stage, as the axis of a figure counts it: 0 before any application.
        residuals: of a decoder that repeats a step, the relative residual of each application, [steps, B].
    """

    queries: Queries
    outputs: StageOutputs
    first: int = 1
    residuals: Tensor | None = None

    @property
    def numbers(self) -> list[int]:
        """The number of each stage."""
        return [self.first + stage for stage in range(self.outputs.num_stages)]

    def title(self, stage: int) -> str:
        """How a figure calls a stage, by its index: "stage 1", or "step 0" before a step is repeated."""
        return f"{'stage' if self.residuals is None else 'step'} {self.first + stage}"


@contextmanager
def looking(model: Detector) -> Iterator[None]:
    """Inside, the model is in evaluation mode and nothing records gradients; afterwards its modes are restored."""
    with evaluation_mode(model), torch.no_grad():
        yield


def every_stage(model: Detector, batch: ImageBatch, *, steps: int | None = None) -> EveryStage:
    """Predict without supervision, as in evaluation, but keep all stages.

    Args:
        model: in evaluation mode, see `looking`.
        batch: on the device of the model.
        steps: applications of a step that is repeated; None: as many as the decoder does in evaluation. Other
            decoders have the stages that they have.

    Returns:
        The predictions.

    Raises:
        InputError: if steps is less than 1.
    """
    if steps is not None and steps < 1:
        raise InputError(f"--steps {steps}: expected at least 1")
    queries, memory = model.encode(batch)
    if not isinstance(model.decoder, TracedDecoder):
        return EveryStage(queries, _matching(queries, model.decoder(queries, memory)))
    steps = model.decoder.applications if steps is None else steps
    outputs, residuals = model.decoder.trace(queries, memory, steps)
    first = steps + 1 - outputs.num_stages
    return EveryStage(queries, _matching(queries, outputs), first=first, residuals=residuals)


def spread(count: int, most: int) -> list[int]:
    """Indices of at most so many of `count` things, evenly spread, the first and the last included."""
    shown = min(count, most)
    return sorted({round(index * (count - 1) / max(shown - 1, 1)) for index in range(shown)})


def one_stage(outputs: StageOutputs, stage: int) -> StageOutputs:
    """The predictions of one stage, as the only stage of its own."""
    return StageOutputs(outputs.logits[stage][None], outputs.boxes[stage][None])


def trained_steps(model: Detector) -> int | None:
    """Applications in training of a decoder that repeats a step; None for other decoders."""
    decoder = model.decoder
    return (decoder.steps or decoder.applications) if isinstance(decoder, TracedDecoder) else None


def assigned(model: Detector, found: EveryStage, targets: PaddedTargets) -> tuple[PaddedTargets, Assignment]:
    """What the group "matching" would be taught, by the detector's own matcher and label rules.

    Args:
        model: gives the criterion.
        found: the predictions.
        targets: the objects, on the device of the predictions.

    Returns:
        The objects as the group sees them, and the assignment with matches [S, B, N] and labels [S, B, N, K].

    Raises:
        InputError: for a criterion of another kind.
    """
    (predicted,) = (item for item in split_groups(found.queries, found.outputs) if item.group.name == "matching")
    return taught(model.criterion, predicted, targets)


def _matching(queries: Queries, outputs: StageOutputs) -> StageOutputs:
    return group_named("matching", split_groups(queries, outputs)).outputs
