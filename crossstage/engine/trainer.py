"""The training loop: read `Trainer.train` first."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from torch import nn

from crossstage.checkpoints.save import BEST, Checkpointer
from crossstage.engine.best import Best, summary
from crossstage.engine.interrupt import Interrupted, StopSignals
from crossstage.engine.learner import Learner
from crossstage.engine.log import LogBook
from crossstage.engine.network import check_finite
from crossstage.engine.optim import LRMultiplier
from crossstage.engine.recorder import Recorder
from crossstage.engine.session import Parts, Results, Session, flat, save_results, score
from crossstage.engine.step import Steps
from crossstage.errors import InputError, NonFiniteError
from crossstage.random_state import random_state, seed_all, set_random_state

logger = logging.getLogger("crossstage.engine")

FINAL = "model_final"


class Trainer:
    """Trains `parts.model` for train.max_iter iterations. Its state can be saved and restored exactly.

    Args:
        session: the environment of the run.
        parts: model, loaders and evaluator; the model is on its device.
        learner: the model and its optimizer, wrapped.
        multiplier: the learning rate schedule, see `LRMultiplier`.
    """

    def __init__(self, session: Session, parts: Parts, *, learner: Learner, multiplier: Any) -> None:
        train = session.cfg.train
        self.session, self.parts, self.config = session, parts, train
        self.fabric, self.processes = session.fabric, session.processes
        self.learner, self.ema = learner, learner.ema
        self.schedule = LRMultiplier(learner.optimizer.optimizer, multiplier, max_iter=train.max_iter)
        self.checkpointer = Checkpointer(session.output_dir, max_to_keep=train.checkpointer.max_to_keep)
        self.best = Best(train.best_metric, train.early_stopping.patience)
        # On a GPU, a check of every loss would wait for the device. `Recorder.collect` checks many steps at once.
        checks = self.fabric.device.type == "cpu" or train.nonfinite == "skip"
        self.recorder = Recorder(self.processes, accumulate=train.accumulate, checks_each_step=checks)
        self.steps = Steps(session, learner, loader=parts.train_loader, recorder=self.recorder)
        self._evaluated: tuple[int, Results] = (-1, {})

    def train(self, checkpoint: dict[str, Any] | None = None) -> Results:
        """Run all iterations, or those after `checkpoint`; return the results of the final evaluation.

        Raises Interrupted after a signal, NonFiniteError for a loss that is not finite, and InputError for an image
        that cannot be read; after the latter, the state is saved first.
        """
        start = 0 if checkpoint is None else self.restore(checkpoint)
        with ExitStack() as stack:
            book = None
            if self.processes.is_first:
                book = LogBook(self.session.output_dir, self.session.log.console, start=start, config=self.session.cfg)
                stack.enter_context(book)
            stop = stack.enter_context(StopSignals(quiet=not self.processes.is_first, log=self.session.log.descriptor))
            self.parts.model.train()
            done = start
            while done < self.config.max_iter and not self.best.is_exhausted:
                try:
                    self._iterate(done, stop, book)
                except NonFiniteError as error:
                    self.steps.describe(error)
                    self.steps.add_remedy(error)
                    raise
                done += 1
            return self._finish(start, done, book)

    def _iterate(self, iteration: int, stop: StopSignals, book: LogBook | None) -> None:
        """One iteration with the evaluation, log line and checkpoint that are due after it."""
        self.schedule.set(iteration)
        with self._saving_after_input_error(iteration - 1):
            signal_number = self.steps.step(iteration, stop)
        done = iteration + 1
        values: dict[str, float] = {}
        if _due(done, self.config.eval_period) and done < self.config.max_iter:
            with self._saving_after_input_error(iteration):
                values |= flat(self.assess(iteration))
            (signal_number,) = self.processes.largest(max(signal_number, stop.received))
        is_last = done == self.config.max_iter or self.best.is_exhausted
        if _due(done, self.config.log_period) or is_last:
            values |= self.training_values(iteration)
        if book is not None and values:
            book.write(iteration, values)
        if _due(done, self.config.checkpointer.period) or signal_number:
            self.save(f"model_{iteration:07d}", iteration)
        if book is not None:
            book.advance(iteration)
            if any("/" in name for name in values):
                book.draw()
        if signal_number:
            raise Interrupted(f"stopped after iteration {iteration}, which is saved", number=signal_number)

    def _finish(self, start: int, done: int, book: LogBook | None) -> Results:
        """Save the final weights, unless a finished run is resumed, and evaluate them."""
        last = done - 1
        if done < self.config.max_iter:
            logger.info(f"stopped early after iteration {last}: {self.best.waited} evaluations without a better score")
        final = self.session.output_dir / f"{FINAL}.pth"
        if done > start or not self.processes.from_first(final.is_file()):
            self.save(FINAL, last)
        evaluated_at, results = self._evaluated
        if evaluated_at != last:
            results = self.assess(last)
        if book is not None:
            book.write(done, flat(results))
            book.draw()
            save_results(results, self.session, self.parts, weights=final.name)
        return results

    @contextmanager
    def _saving_after_input_error(self, iteration: int) -> Iterator[None]:
        """Save the state after `iteration`, if there is one, before an InputError leaves."""
        try:
            yield
        except InputError as error:
            if iteration >= 0:
                self.save(f"model_{iteration:07d}", iteration)
                error.args = (f"{error}; iteration {iteration} is saved",)
            raise

    def training_values(self, iteration: int) -> dict[str, float]:
        """The values of a training line in metrics.json: medians over the last 20 iterations."""
        medians = self.recorder.medians()
        remaining = self.config.max_iter - iteration - 1
        skipped = {"skipped": float(self.steps.skipped)} if self.steps.skipped else {}
        return {**medians, **skipped, "lr": self.schedule.lr, "eta_seconds": medians.get("time", 0.0) * remaining}

    def assess(self, iteration: int) -> Results:
        """Evaluate, log the scores, and keep the weights if their score is the best so far."""
        results = self.evaluate()
        self._evaluated = (iteration, results)
        self.best = self.processes.together(lambda: self.best.after(results, iteration))
        is_best = self.best.iteration == iteration
        if is_best:
            self._share_buffers()
            weights = self.learner.best_weights(keep=self.processes.is_first)
            self.processes.on_first(lambda: self.checkpointer.save_best(self.best_state(iteration, weights)))
        suffix = f" (this one, {BEST})" if is_best else ""
        shown = [*summary(results), f"{self.best}{suffix}"] if self.best.metric else summary(results)
        logger.info(f"iteration {iteration}: " + "\n  ".join(shown))
        return results

    def evaluate(self) -> Results:
        """Scores of the model's weights, of the averaged ones ("ema_bbox"), or both. Training is not affected."""
        self._share_buffers()
        if self.ema is None:
            return self._score(self.parts.model)
        averaged = self._score(self.ema.module)
        if self.config.model_ema.use_ema_weights_for_eval_only:
            return averaged
        own = self._score(self.parts.model)
        return {**own, **{f"ema_{task}": scores for task, scores in averaged.items()}}

    def _score(self, model: nn.Module) -> Results:
        with self.learner.whole(model) as whole:
            return score(self.session, replace(self.parts, model=whole))

    def _share_buffers(self) -> None:
        """Give all processes the running means of the first one, for evaluation, checkpoints and further training."""
        self.processes.share(self.parts.model.buffers())
        if self.ema is not None:
            self.processes.share(self.ema.module.buffers())

    def save(self, name: str, iteration: int) -> None:
        """Write a checkpoint; all processes wait for it. If weights are not finite, raise NonFiniteError instead."""
        self.recorder.collect()
        self._share_buffers()
        self.processes.together(lambda: check_finite(self.parts.model, iteration))
        random_states = self.processes.gather(random_state())
        learned = self.learner.state_dict(keep=self.processes.is_first)

        def write() -> None:
            self.checkpointer.save(name, self.state_dict(iteration, random_states, learned))

        self.processes.on_first(write)

    def state_dict(
        self, iteration: int, random_states: list[dict[str, Any]], learned: dict[str, Any]
    ) -> dict[str, Any]:
        """The state of a run in tensors and plain containers.

        Args:
            iteration: the last finished one.
            random_states: of all processes.
            learned: what `Learner.state_dict` returned.
        """
        return {
            **learned,
            "scheduler": self.schedule.state_dict(),
            "scaler": self.fabric.strategy.precision.state_dict(),
            "random": random_states,
            "sampler": self.parts.train_loader.state_dict(),
            "seed": self.config.seed,
            "history": self.recorder.history.state_dict(),
            "best": self.best.state_dict(),
            "skipped": self.steps.skipped,
            **self._described(iteration),
        }

    def best_state(self, iteration: int, weights: dict[str, Any]) -> dict[str, Any]:
        """The weights that were evaluated, with their score; a run cannot be resumed from them."""
        return {**weights, "best": self.best.state_dict(), **self._described(iteration)}

    def _described(self, iteration: int) -> dict[str, Any]:
        """What a checkpoint says about itself."""
        dataset = getattr(self.parts.train_loader, "dataset", None)
        return {
            "iteration": iteration,
            "config": (self.session.output_dir / "config.yaml").read_text(encoding="utf-8"),
            "class_names": [str(name) for name in getattr(dataset, "class_names", ())],
            "category_ids": list(getattr(dataset, "category_ids", ())),  # None for a class that the file lacks
        }

    def restore(self, state: dict[str, Any]) -> int:
        """Restore the state of a checkpoint, weights included; return the iteration to continue with."""
        self.learner.load_state_dict(state)
        self.fabric.strategy.precision.load_state_dict(state["scaler"])
        self.parts.train_loader.load_state_dict(state["sampler"])
        self.recorder.history.load_state_dict(state["history"])
        self.best = self.best.restored(state.get("best"))
        self.steps.skipped = state.get("skipped", 0)
        if len(state["random"]) == self.processes.count:
            set_random_state(state["random"][self.processes.rank])
        else:
            logger.warning(f"the checkpoint is of {len(state['random'])} processes: random numbers start from a seed")
            seed_all(self.config.seed + 1000 * (state["iteration"] + 1) + self.processes.rank)
        return state["iteration"] + 1


def _due(done: int, period: int) -> bool:
    return period > 0 and done % period == 0
