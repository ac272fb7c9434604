"""The best evaluation of a run, and when to stop because there is no better one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from crossstage.errors import InputError

SHOWN = ("AP", "AP50", "AP75", "APs", "APm", "APl")
MOST = 12  # scores of a task without these


@dataclass(frozen=True)
class Best:
    """The best score so far. Frozen: `after` returns the state that follows an evaluation.

    Attributes:
        metric: the score, as "bbox/AP"; higher is better. "" keeps no best.
        patience: number of evaluations without a better score after which a run stops; 0: never.
        score: the best score; NaN before there is any.
        iteration: its iteration, counted from 0; -1 before there is any.
        waited: number of evaluations since then.
    """

    metric: str
    patience: int = 0
    score: float = math.nan
    iteration: int = -1
    waited: int = 0

    @property
    def is_exhausted(self) -> bool:
        """Whether the run should stop."""
        return 0 < self.patience <= self.waited

    def after(self, results: Mapping[str, Mapping[str, float]], iteration: int) -> Best:
        """The state after an evaluation. A score that is NaN is not better than any.

        Averaged weights, if there are any, decide: for "bbox/AP" their score "ema_bbox/AP".

        Args:
            results: the scores by task and name.
            iteration: the iteration of the evaluation.

        Returns:
            The state; its `iteration` is the given one if the score is the best.

        Raises:
            InputError: if there is no such score.
        """
        if not self.metric:
            return self
        score = score_of(results, self.metric)
        if score > self.score or (math.isnan(self.score) and not math.isnan(score)):
            return Best(self.metric, self.patience, score, iteration)
        return Best(self.metric, self.patience, self.score, self.iteration, self.waited + 1)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint stores."""
        score = None if math.isnan(self.score) else self.score
        return {"metric": self.metric, "score": score, "iteration": self.iteration, "waited": self.waited}

    def restored(self, state: Mapping[str, Any] | None) -> Best:
        """The state of a checkpoint with this config's metric and patience; a new one if the metric has changed."""
        if state is None or state["metric"] != self.metric:
            return self
        score = math.nan if state["score"] is None else state["score"]
        return Best(self.metric, self.patience, score, state["iteration"], state["waited"])

    def __str__(self) -> str:
        if self.iteration < 0:
            return f"no {self.metric} yet"
        return f"best {self.metric} {self.score:.2f} at iteration {self.iteration}"


def score_of(results: Mapping[str, Mapping[str, float]], metric: str) -> float:
    """The score named "task/name", that of the averaged weights if there is one. Raises InputError if there is none."""
    task, _, name = metric.rpartition("/")
    for owner in (f"ema_{task}", task):
        if name in results.get(owner, {}):
            return results[owner][name]
    known = ", ".join(f"{task}/{name}" for task, scores in results.items() for name in scores)
    raise InputError(f"train.best_metric={metric!r}: no such score; expected '' or one of: {known}")


def summary(results: Mapping[str, Mapping[str, float]]) -> list[str]:
    """One line per task: the AP, and the APs of a part of the objects. Without them, the first scores."""
    lines = []
    for task, scores in results.items():
        names = [name for name in SHOWN if name in scores] or list(scores)[:MOST]
        lines.append(f"{task}: " + "  ".join(f"{name} {scores[name]:.2f}" for name in names))
    return lines
