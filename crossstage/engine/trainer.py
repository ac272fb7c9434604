"""The training loop: read `Trainer.train` first."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from crossstage.checkpoints.save import Checkpointer
from crossstage.engine.ema import build_ema, unique_state
from crossstage.engine.interrupt import Interrupted, StopSignals
from crossstage.engine.log import LogBook
from crossstage.engine.metrics import History, StepRecord, described, mean_of, settle
from crossstage.engine.optim import LRMultiplier, load_optimizer
from crossstage.engine.session import Parts, Results, Session, flat, save_results, score
from crossstage.errors import InputError, NonFiniteError
from crossstage.random_state import random_state, seed_all, set_random_state
from crossstage.structures import ImageBatch, Losses

logger = logging.getLogger("crossstage.engine")


class Trainer:
    """Trains `parts.model` for train.max_iter iterations. Its state can be saved and restored exactly.

    Args:
        session: the environment of the run.
        parts: model, loaders and evaluator; the model is on its device.
        optimizer: the optimizer of the model's parameters.
        multiplier: the learning rate schedule, see `LRMultiplier`.
    """

    def __init__(self, session: Session, parts: Parts, *, optimizer: Optimizer, multiplier: Any) -> None:
        train = session.cfg.train
        self.session, self.parts, self.config = session, parts, train
        self.fabric, self.processes = session.fabric, session.processes
        self.schedule = LRMultiplier(optimizer, multiplier, max_iter=train.max_iter)
        with warnings.catch_warnings():  # torch renames the argument, but Fabric supports versions before and after
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
            self.network, self.optimizer = self.fabric.setup(_Losses(parts.model), optimizer)
        self.ema = build_ema(parts.model, train.model_ema) if train.model_ema.enabled else None
        self.checkpointer = Checkpointer(session.output_dir, max_to_keep=train.checkpointer.max_to_keep)
        self.history = History()
        # On a GPU, a check of every loss would wait for the device. `collect` checks many steps at once instead.
        self.checks_each_step = self.fabric.device.type == "cpu"
        self._pending: list[StepRecord] = []
        self._timings: list[dict[str, float]] = []
        self._gradient_norms: list[Tensor] = []  # on the device until they are collected

    def train(self, checkpoint: dict[str, Any] | None = None) -> Results:
        """Run all iterations, or those after `checkpoint`; return the results of the final evaluation.

        Raises Interrupted after SIGINT or SIGTERM, and NonFiniteError for a loss that is not finite.
        """
        start = 0 if checkpoint is None else self.restore(checkpoint)
        max_iter = self.config.max_iter
        with ExitStack() as stack:
            book = None
            if self.processes.is_first:
                book = LogBook(self.session.output_dir, self.session.log.console, start=start, config=self.session.cfg)
                stack.enter_context(book)
            stop = stack.enter_context(StopSignals(quiet=not self.processes.is_first))
            self.parts.model.train()
            batches = iter(self.parts.train_loader)
            for iteration in range(start, max_iter):
                signal_number = self.step(iteration, batches, stop)
                done = iteration + 1
                values: dict[str, float] = {}
                if _due(done, self.config.eval_period) and done < max_iter:
                    values |= flat(self.evaluate())
                if _due(done, self.config.log_period) or done == max_iter:
                    values |= self.training_values(iteration)
                if values and book is not None:
                    book.write(iteration, values)
                if _due(done, self.config.checkpointer.period) or signal_number:
                    self.save(f"model_{iteration:07d}", iteration)
                if done == max_iter:
                    self.save("model_final", iteration)
                if book is not None:
                    book.advance(iteration)
                    if any("/" in name for name in values):
                        book.draw()
                if signal_number:
                    message = f"stopped after iteration {iteration}, which is saved"
                    logger.info(message)
                    raise Interrupted(message, number=signal_number)
            results = self.evaluate()
            if book is not None:
                book.write(max_iter, flat(results))
                book.draw()
                save_results(results, self.session.output_dir)
        return results

    def step(self, iteration: int, batches: Iterator[ImageBatch], stop: StopSignals) -> int:
        """Do one optimizer step on `accumulate` batches. Returns the signal that any process has received, or 0."""
        started = time.perf_counter()
        waited = 0.0
        image_ids: tuple[int, ...] = ()
        self.schedule.set(iteration)
        for part in range(self.config.accumulate):
            # The processes exchange gradients only with the last part.
            with self.fabric.no_backward_sync(self.network, enabled=part < self.config.accumulate - 1):
                asked = time.perf_counter()
                error, total = None, None
                try:
                    batch = next(batches)
                    waited += time.perf_counter() - asked
                    image_ids += batch.image_ids
                    total = self._losses(batch, iteration)
                except (InputError, NonFiniteError) as raised:
                    error = raised
                (signal_number,) = self.processes.agree(error, stop.received)
                self.fabric.backward(total / self.config.accumulate)
        self._update(iteration, image_ids)
        self._timings.append({"time": time.perf_counter() - started, "data_time": waited, "rank_data_time": waited})
        return signal_number

    def _losses(self, batch: ImageBatch, iteration: int) -> Tensor:
        """The model's total loss, which is minimised; the loss terms and metrics are kept for the log."""
        try:
            losses = Losses(*self.network(_Envelope(batch.to(self.fabric.device, non_blocking=True))))
        except NonFiniteError as error:
            raise NonFiniteError(f"iteration {iteration}, {described(batch.image_ids)}: {error}") from error
        record = StepRecord.of(iteration, losses, batch.image_ids)
        if self.checks_each_step:
            settle([record])
        self._pending.append(record)
        return losses.total

    def _update(self, iteration: int, image_ids: tuple[int, ...]) -> None:
        """Clip the gradients, do the optimizer step, update the averaged weights.

        The gradients' norm before clipping is kept for the log.
        """
        if self.config.clip_grad.enabled:
            clip = self.config.clip_grad.params
            norm = self.fabric.clip_gradients(
                self.network,
                self.optimizer,
                max_norm=clip.max_norm,
                norm_type=clip.get("norm_type", 2),
                error_if_nonfinite=False,
            )
            # The norm is the same on all processes.
            if self.checks_each_step and norm is not None and not torch.isfinite(norm):
                raise NonFiniteError(f"iteration {iteration}: gradient not finite; {described(image_ids)}")
            if norm is not None:
                self._gradient_norms.append(norm.detach())
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            # Without the argument `step`, timm uses the constant decay from the beginning.
            self.ema.update(self.parts.model, step=iteration + 1 if self.ema.use_warmup else None)

    def collect(self) -> None:
        """Copy the metrics since the last call to the host, average them over the processes, and store them.

        Raises NonFiniteError on all processes if a loss of any process was not finite.
        """
        rows = self.processes.together(self._settle_pending)
        for of_ranks in zip(*self.processes.gather(rows), strict=True):
            first = {name: of_ranks[0][name] for name in ("time", "rank_data_time")}
            slowest = max(row["data_time"] for row in of_ranks)
            self.history.add({**mean_of(of_ranks), **first, "data_time": slowest})

    def _settle_pending(self) -> list[dict[str, float]]:
        rows = settle(self._pending)
        parts = self.config.accumulate
        steps = [mean_of(rows[first : first + parts]) for first in range(0, len(rows), parts)]
        rows = [{**row, **timing} for row, timing in zip(steps, self._timings, strict=True)]
        if self._gradient_norms:  # none without clipping
            norms = torch.stack(self._gradient_norms).tolist()
            rows = [{**row, "grad_norm": norm} for row, norm in zip(rows, norms, strict=True)]
        self._pending, self._timings, self._gradient_norms = [], [], []
        return rows

    def training_values(self, iteration: int) -> dict[str, float]:
        """The values of a training line in metrics.json: medians over the last 20 iterations."""
        self.collect()
        medians = self.history.medians()
        remaining = self.config.max_iter - iteration - 1
        return {**medians, "lr": self.schedule.lr, "eta_seconds": medians["time"] * remaining}

    def evaluate(self) -> Results:
        """Scores of the model's weights, of the averaged ones ("ema_bbox"), or both. Training is not affected."""
        self._share_buffers()
        if self.ema is None:
            return score(self.session, self.parts)
        averaged = score(self.session, replace(self.parts, model=self.ema.module))
        if self.config.model_ema.use_ema_weights_for_eval_only:
            return averaged
        own = score(self.session, self.parts)
        return {**own, **{f"ema_{task}": scores for task, scores in averaged.items()}}

    def _share_buffers(self) -> None:
        """Give all processes the running means of the first one, for evaluation, checkpoints and further training."""
        self.processes.share(self.parts.model.buffers())
        if self.ema is not None:
            self.processes.share(self.ema.module.buffers())

    def save(self, name: str, iteration: int) -> None:
        """Write a checkpoint; all processes wait for it. If weights are not finite, raise NonFiniteError instead."""
        self.collect()
        self._share_buffers()
        self.processes.together(lambda: check_finite(self.parts.model, iteration))
        random_states = self.processes.gather(random_state())

        def write() -> None:
            self.checkpointer.save(name, self.state_dict(iteration, random_states))

        self.processes.on_first(write)

    def state_dict(self, iteration: int, random_states: list[dict[str, Any]]) -> dict[str, Any]:
        """The state of a run in tensors and plain containers; `iteration` is the last finished one."""
        dataset = getattr(self.parts.train_loader, "dataset", None)
        state = {
            "model": self.parts.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.schedule.state_dict(),
            "scaler": self.fabric.strategy.precision.state_dict(),
            "random": random_states,
            "sampler": self.parts.train_loader.state_dict(),
            "iteration": iteration,
            "seed": self.config.seed,
            "history": self.history.state_dict(),
            "config": (self.session.output_dir / "config.yaml").read_text(encoding="utf-8"),
            "class_names": [str(name) for name in getattr(dataset, "class_names", ())],
            "category_ids": list(getattr(dataset, "category_ids", ())),  # None for a class that the file lacks
        }
        return state if self.ema is None else {**state, "ema_state": self.ema.averages()}

    def restore(self, state: dict[str, Any]) -> int:
        """Restore the state of a checkpoint, weights included; return the iteration to continue with."""
        self.parts.model.load_state_dict(state["model"])
        load_optimizer(self.optimizer.optimizer, state["optimizer"])
        self.fabric.strategy.precision.load_state_dict(state["scaler"])
        self.parts.train_loader.load_state_dict(state["sampler"])
        self.history.load_state_dict(state["history"])
        if self.ema is not None:
            self.ema.load_averages(state.get("ema_state", unique_state(self.parts.model)))
        if len(state["random"]) == self.processes.count:
            set_random_state(state["random"][self.processes.rank])
        else:
            logger.warning(f"the checkpoint is of {len(state['random'])} processes: random numbers start from a seed")
            seed_all(self.config.seed + 1000 * (state["iteration"] + 1) + self.processes.rank)
        return state["iteration"] + 1


class _Envelope:
    """Wraps a batch, because Fabric would otherwise copy the dataclass and convert its tensors."""

    def __init__(self, batch: ImageBatch) -> None:
        self.batch = batch


class _Losses(nn.Module):
    """The module that Fabric wraps: it unwraps the batch and calls the model, its only submodule."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, envelope: _Envelope) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """The fields of `Losses` in a tuple and dicts, in which Fabric and DDP can find the tensors."""
        losses = self.model(envelope.batch)
        return losses.total, dict(losses.terms), dict(losses.metrics)


def check_finite(model: nn.Module, iteration: int) -> None:
    """Raise NonFiniteError, which names tensors, if weights are not finite; needs one transfer from the device."""
    floats = {name: tensor for name, tensor in unique_state(model).items() if tensor.is_floating_point()}
    finite = torch.stack([tensor.detach().isfinite().all() for tensor in floats.values()]).tolist()
    if bad := [name for name, is_finite in zip(floats, finite, strict=True) if not is_finite]:
        raise NonFiniteError(f"iteration {iteration}: weights not finite, nothing was saved: {', '.join(bad[:5])}")


def _due(done: int, period: int) -> bool:
    return period > 0 and done % period == 0
