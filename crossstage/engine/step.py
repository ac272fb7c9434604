"""One optimizer step: batches, losses, gradients, update. Read `Steps.step` first."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from crossstage.accumulation import StepCounts, sharing
from crossstage.engine.failure import write_failure
from crossstage.engine.interrupt import StopSignals
from crossstage.engine.learner import Learner
from crossstage.engine.metrics import StepRecord, described
from crossstage.engine.network import Envelope
from crossstage.engine.recorder import Recorder
from crossstage.engine.session import Session
from crossstage.engine.sharding import gathered
from crossstage.errors import InputError, NonFiniteError
from crossstage.processes import Failure
from crossstage.random_state import preserved_random_state
from crossstage.structures import ImageBatch, Losses

logger = logging.getLogger("crossstage.engine")


class Steps:
    """Does the optimizer steps of a run. A step that fails is left out where the config says "skip".

    Args:
        session: the environment of the run.
        learner: what is trained.
        loader: the training batches.
        recorder: gets the numbers of each step.

    Attributes:
        skipped: number of steps that were left out.
    """

    def __init__(self, session: Session, learner: Learner, *, loader: Any, recorder: Recorder) -> None:
        self.session, self.learner, self.loader, self.recorder = session, learner, loader, recorder
        self.config = session.cfg.train
        self.skipped = 0
        self._skips = {InputError: self.config.bad_batch == "skip", NonFiniteError: self.config.nonfinite == "skip"}
        self._batches: Iterator[ImageBatch] | None = None
        groups = [module for module in learner.model.modules() if hasattr(module, "normalizer")]
        self._counts_first = any(getattr(group.normalizer, "follows_assignment", False) for group in groups)

    @property
    def fabric(self) -> Fabric:
        """The devices."""
        return self.session.fabric

    def step(self, iteration: int, stop: StopSignals) -> int:
        """Do one optimizer step on `accumulate` batches.

        Args:
            iteration: the iteration, counted from 0.
            stop: the signals that this process has received.

        Returns:
            The signal that any process has received, or 0.

        Raises:
            InputError, NonFiniteError: on all processes, if the step fails and is not to be left out. The loader is
                then at the position before the step.
        """
        started = time.perf_counter()
        position = self.loader.state_dict()
        buffers = self._float_buffers() if self._skips[NonFiniteError] else {}
        batches, error = self._next_batches()
        waited = time.perf_counter() - started
        error, (signal_number,) = self.session.processes.shared(error, stop.received)
        records: list[StepRecord] = []
        norm = None
        if error is None:
            error, signal_number = self._accumulate(iteration, batches, records, stop)
        if error is None:
            norm, error = self._clip(iteration, records)
        if error is None:
            self._update(iteration)
            self.recorder.add(records, gradient_norm=norm, seconds=time.perf_counter() - started, waited=waited)
        else:
            self._leave_out(error, iteration, position, buffers)
        return signal_number

    def _next_batches(self) -> tuple[list[ImageBatch], Failure | None]:
        """The batches of a step on the host, and the error of an image that cannot be read."""
        if self._batches is None:
            self._batches = iter(self.loader)
        batches = []
        try:
            for _ in range(self.config.accumulate):
                batches.append(next(self._batches))
        except InputError as error:
            return batches, error
        return batches, None

    def _accumulate(
        self, iteration: int, batches: list[ImageBatch], records: list[StepRecord], stop: StopSignals
    ) -> tuple[Failure | None, int]:
        """Add up the gradients of the batches; returns the error and the signal of any process."""
        last = len(batches) - 1
        with sharing(self._counts(batches)) if last else nullcontext():
            for part, batch in enumerate(batches):
                # The processes exchange gradients only with the last part.
                with self.fabric.no_backward_sync(self.learner.network, enabled=part < last):
                    error: Failure | None = None
                    try:
                        total = self._losses(batch, iteration, records)
                    except (InputError, NonFiniteError) as raised:
                        error = raised
                    error, (signal_number,) = self.session.processes.shared(error, stop.received)
                    if error is not None:
                        return error, signal_number
                    self.fabric.backward(total / len(batches))
        return None, signal_number

    def _counts(self, batches: list[ImageBatch]) -> StepCounts:
        """The counts by which the losses of all batches are divided.

        If they depend on the assignment, each batch needs a forward pass without gradients first.
        """
        objects = sum(len(target) for batch in batches for target in batch.targets or ())
        counts = StepCounts(len(batches), objects / len(batches))
        if not self._counts_first:
            return counts
        buffers = {name: buffer.clone() for name, buffer in self.learner.model.named_buffers()}
        counts.records = True
        with preserved_random_state(), torch.no_grad(), sharing(counts):
            for batch in batches:
                counts.recorded.append({})
                self._forward(batch)
        self._restore(buffers)
        counts.records = False
        return counts

    def _forward(self, batch: ImageBatch) -> Losses:
        return Losses(*self.learner.network(Envelope(batch.to(self.fabric.device, non_blocking=True))))

    def _losses(self, batch: ImageBatch, iteration: int, records: list[StepRecord]) -> Tensor:
        """The model's total loss, which is minimised; the loss terms and metrics are kept for the log."""
        try:
            losses = self._forward(batch)
        except NonFiniteError as error:
            named = NonFiniteError(f"iteration {iteration}, {described(batch.image_ids)}: {error}")
            named.evidence = (StepRecord.without_losses(iteration, batch),)
            raise named from error
        records.append(StepRecord.of(iteration, losses, batch))
        self.recorder.check(records[-1])
        return losses.total

    def _clip(self, iteration: int, records: list[StepRecord]) -> tuple[Tensor | None, Failure | None]:
        """Clip the gradients; returns their norm before, which is the same on all processes, and whether it is bad."""
        clip = self.config.clip_grad
        scales = self.config.amp.enabled and self.config.amp.dtype == "fp16"  # the scaler leaves out bad steps itself
        checks = self.recorder.checks_each_step and not scales
        if not clip.enabled and not (checks and self._skips[NonFiniteError]):
            return None, None
        total = self.fabric.clip_gradients(
            self.learner.network,
            self.learner.optimizer,
            max_norm=clip.params.max_norm if clip.enabled else float("inf"),
            norm_type=clip.params.get("norm_type", 2),
            error_if_nonfinite=False,
        )
        norm = gathered(total)  # of shards, each process knows only its share
        if checks and norm is not None and not torch.isfinite(norm):
            image_ids = tuple(image_id for record in records for image_id in record.image_ids)
            error = NonFiniteError(f"iteration {iteration}: gradient not finite; {described(image_ids)}")
            error.evidence = tuple(records) if self.session.processes.is_first else ()
            error.known_to_first = True
            return None, error
        return norm if clip.enabled else None, None

    def _update(self, iteration: int) -> None:
        """Do the optimizer step and update the averaged weights."""
        self.learner.optimizer.step()
        self.learner.optimizer.zero_grad(set_to_none=True)
        if self.learner.ema is not None:
            # Without the argument `step`, timm uses the constant decay from the beginning.
            use_warmup = self.learner.ema.use_warmup
            self.learner.ema.update(self.learner.model, step=iteration + 1 if use_warmup else None)

    def _leave_out(self, error: Failure, iteration: int, position: dict[str, Any], buffers: dict[str, Tensor]) -> None:
        """Go on without this step, or raise the error."""
        skips = self._skips[NonFiniteError if isinstance(error, NonFiniteError) else InputError]
        if not skips or self.skipped >= self.config.max_skipped:
            self.loader.load_state_dict(position)
            if isinstance(error, InputError):
                self.add_remedy(error)
            raise error
        self.describe(error)
        self.skipped += 1
        self.learner.optimizer.zero_grad(set_to_none=True)
        self._restore(buffers)
        # The loaders of the other processes are past this step already.
        self.loader.load_state_dict({**position, "batches": position["batches"] + self.config.accumulate})
        self._batches = None
        logger.warning(f"iteration {iteration} left out, {self.skipped} of at most {self.config.max_skipped}: {error}")

    def describe(self, error: Failure) -> None:
        """Write the folder failure/ for an error with evidence, on the process that has it."""
        if isinstance(error, NonFiniteError):
            names = [str(name) for name in getattr(getattr(self.loader, "dataset", None), "class_names", ())]
            rank = self.session.processes.rank
            folder = write_failure(error, self.session.output_dir, class_names=names, rank=rank)
            if folder is not None:
                logger.error(f"not finite: the batch, its picture and its losses are in {folder}")

    def add_remedy(self, error: Failure) -> None:
        """Append to the message the option that leaves such steps out, or the limit that was reached."""
        kind, option = (
            (NonFiniteError, "train.nonfinite")
            if isinstance(error, NonFiniteError)
            else (InputError, "train.bad_batch")
        )
        remedy = f"--resume comes to the same step again; {option}=skip leaves such steps out"
        if self._skips[kind]:
            remedy = f"{self.skipped} steps were left out before, as many as train.max_skipped allows"
        error.args = (f"{error}; {remedy}",)

    def _float_buffers(self) -> dict[str, Tensor]:
        """Copies of the running means, which a forward pass changes."""
        named = self.learner.model.named_buffers()
        return {name: buffer.clone() for name, buffer in named if buffer.is_floating_point()}

    def _restore(self, buffers: dict[str, Tensor]) -> None:
        """Give buffers their earlier values."""
        for name, buffer in self.learner.model.named_buffers():
            if name in buffers:
                buffer.copy_(buffers[name])
