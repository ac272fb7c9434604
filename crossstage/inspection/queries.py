"""Which queries of a detector work, counted over a data set: `crossstage inspect queries`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crossstage.evaluation.query_metrics import QueryCounts, summed
from crossstage.evaluation.query_use import (
    THRESHOLDS,
    activations,
    gini,
    instability,
    lorenz,
    mean_cosine,
    shuffled,
    top_share,
)
from crossstage.inspection.figures import COLUMN, paper_figure, write_numbers
from crossstage.inspection.stages import EveryStage, assigned, every_stage
from crossstage.modeling.detector import Detector
from crossstage.structures import Assignment, ImageBatch, PaddedTargets

DRAWN_THRESHOLD = 0.3
"""The threshold of the authors' logs, for figures that show one."""

Numbers = dict[str, Any]


@dataclass
class QueryTally:
    """Counts over images. The control has the queries of each image in an order of chance.

    Attributes:
        counts: which queries are active and matched, positives of each stage, objects and images.
        active_control: images in which each query of the control is active, by threshold, int64 [R, N].
        matched_control: images in which each query of the control has an object at the last stage, int64 [N].
        changed: objects whose queries differ between each stage and the next.
        cosines: sums over the images of the mean cosine of the contents that enter the decoder, and of the states that
            leave it.
    """

    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))
    counts: QueryCounts = field(default_factory=QueryCounts)
    active_control: Tensor | int = 0
    matched_control: Tensor | int = 0
    changed: list[int] = field(default_factory=list)
    cosines: dict[str, float] = field(default_factory=dict)
    stages: list[int] = field(default_factory=list)

    def add(self, found: EveryStage, targets: PaddedTargets, assignment: Assignment) -> None:
        """Count the images of a batch."""
        outputs, matches, valid = found.outputs, assignment.matches.cpu(), targets.valid.cpu()
        self.counts.add(outputs, targets, assignment)
        logits, has_object = outputs.logits[-1].cpu(), (matches[-1] >= 0).long()
        control = activations(shuffled(logits, self.generator), torch.tensor(THRESHOLDS))
        self.active_control = self.active_control + control
        self.matched_control = self.matched_control + shuffled(has_object, self.generator).sum(0)
        self.changed = summed(
            self.changed, [instability(before, after, valid)[0] for before, after in pairwise(matches)]
        )
        self.stages = found.numbers
        vectors = {
            "content": found.queries.content,
            "last_stage": outputs.states[-1] if outputs.states is not None else None,
        }
        for name, value in vectors.items():
            if value is not None:
                cosine = float(mean_cosine(value).sum()) * len(logits) / len(value)
                self.cosines[name] = self.cosines.get(name, 0.0) + cosine

    def numbers(self) -> Numbers:
        """What the figures show, and the counts that it is computed from."""
        active, control = (torch.as_tensor(value) for value in (self.counts.active, self.active_control))
        matched, matched_control = (torch.as_tensor(value) for value in (self.counts.matched, self.matched_control))
        objects = max(self.counts.objects, 1)
        return {
            "images": self.counts.images,
            "objects": self.counts.objects,
            "stages": self.stages,
            "thresholds": THRESHOLDS,
            "activation_gini": [gini(counts) for counts in active],
            "activation_gini_shuffled": [gini(counts) for counts in control],
            "activation_top_share": [top_share(counts) for counts in active],
            "activation_top_share_shuffled": [top_share(counts) for counts in control],
            "match_gini": gini(matched),
            "match_gini_shuffled": gini(matched_control),
            "match_top_share": top_share(matched),
            "match_top_share_shuffled": top_share(matched_control),
            "positives_per_object": [count / objects for count in self.counts.positives],
            "query_changes": [count / objects for count in self.changed],
            "mean_cosine": {name: value / max(self.counts.images, 1) for name, value in self.cosines.items()},
            "activations": active,
            "matches": matched,
        }


@dataclass
class Comparison:
    """How many objects have other queries in another checkpoint, at each stage; stages are compared from the last."""

    changed: list[int] = field(default_factory=list)
    objects: int = 0

    def add(self, targets: PaddedTargets, first: Assignment, second: Assignment) -> None:
        """Count the images of a batch. The number of queries may differ: then an object's index may not exist."""
        stages = min(len(first.matches), len(second.matches))
        pairs = zip(
            _padded(first.matches, second.matches)[-stages:],
            _padded(second.matches, first.matches)[-stages:],
            strict=True,
        )
        self.changed = summed(self.changed, [instability(one, other, targets.valid)[0] for one, other in pairs])
        self.objects += targets.num_objects


def look_at_queries(
    models: Mapping[str, Detector], batches: Any, *, device: torch.device
) -> tuple[dict[str, QueryTally], dict[str, Comparison]]:
    """Count how the queries of one or more detectors are used.

    Args:
        models: in evaluation mode, by the name that figures show; the others are compared with the first.
        batches: ImageBatches with targets.
        device: of the models.

    Returns:
        The counts of each model, and the comparison of each further model with the first.
    """
    tallies = {name: QueryTally() for name in models}
    first, *others = models
    comparisons = {name: Comparison() for name in others}
    for batch in batches:
        found = {name: _assignment(model, batch.to(device), tallies[name]) for name, model in models.items()}
        for name, comparison in comparisons.items():
            comparison.add(found[first][0], found[first][1], found[name][1])
    return tallies, comparisons


def _assignment(model: Detector, batch: ImageBatch, tally: QueryTally) -> tuple[PaddedTargets, Assignment]:
    targets = PaddedTargets.of(batch.targets or ())
    found = every_stage(model, batch)
    objects, assignment = assigned(model, found, targets)
    tally.add(found, objects, assignment)
    return objects, assignment


def write_query_use(
    tallies: Mapping[str, QueryTally], comparisons: Mapping[str, Comparison], folder: Path
) -> dict[str, Numbers]:
    """Draw the figures and write queries.json; returns its numbers by model."""
    numbers = {name: tally.numbers() for name, tally in tallies.items()}
    for name, comparison in comparisons.items():
        share = [count / max(comparison.objects, 1) for count in comparison.changed]
        numbers[name]["query_changes_from_first_checkpoint"] = share
    write_numbers(folder / "queries.json", numbers)
    draw_gini(numbers, folder / "gini")
    draw_use(numbers, folder / "use_by_query")
    draw_by_stage(numbers, folder / "by_stage")
    return numbers


def draw_gini(numbers: Mapping[str, Numbers], stem: Path) -> None:
    """Gini coefficient of the activations against the threshold; dashed: the control."""
    with paper_figure(stem, height=2.6) as grid:
        axes = grid[0, 0]
        for name, values in numbers.items():
            (line,) = axes.plot(values["thresholds"], values["activation_gini"], marker="o", label=name)
            axes.plot(values["thresholds"], values["activation_gini_shuffled"], linestyle="--", color=line.get_color())
        axes.plot([], [], linestyle="--", color="grey", label="order of chance")
        axes.set(xlabel="score threshold", ylabel="Gini of activations", ylim=(0, 1))
        axes.figure.legend(loc="outside upper left", ncols=1 if len(numbers) == 1 else 2)


def draw_use(numbers: Mapping[str, Numbers], stem: Path) -> None:
    """Left: activations against the index of the query; right: Lorenz curves of activations and matches."""
    chosen = THRESHOLDS.index(DRAWN_THRESHOLD)
    with paper_figure(stem, columns=2, width=2 * COLUMN, height=2.6) as grid:
        left, right = grid[0]
        for name, values in numbers.items():
            active = torch.as_tensor(values["activations"])[chosen]
            (line,) = left.plot(active / max(values["images"], 1), linewidth=0.8, label=name)
            ranks = torch.linspace(0, 1, len(active) + 1)
            right.plot(ranks, lorenz(active), color=line.get_color())
            right.plot(ranks, lorenz(torch.as_tensor(values["matches"])), linestyle=":", color=line.get_color())
        right.plot([0, 1], [0, 1], color="grey", linewidth=0.6)
        left.set(xlabel="index of the query", ylabel=f"share of images, score > {DRAWN_THRESHOLD}")
        left.set_ylim(bottom=0)
        right.set(xlabel="share of queries, least used first", ylabel="share of uses", xlim=(0, 1), ylim=(0, 1))
        _legend_above(left, {f"score > {DRAWN_THRESHOLD}": {"linestyle": "-"}, "matched": {"linestyle": ":"}})


def draw_by_stage(numbers: Mapping[str, Numbers], stem: Path) -> None:
    """Left: class targets per object at each stage; right: how many objects change their queries."""
    before: dict[str, Any] = {"marker": "o", "linestyle": "-", "clip_on": False}
    other: dict[str, Any] = {"marker": "s", "linestyle": "--", "clip_on": False}
    with paper_figure(stem, columns=2, width=2 * COLUMN, height=2.6) as grid:
        left, right = grid[0]
        for name, values in numbers.items():
            (line,) = left.plot(values["stages"], values["positives_per_object"], marker="o", label=name)
            right.plot(values["stages"][1:], values["query_changes"], color=line.get_color(), **before)
            if found := values.get("query_changes_from_first_checkpoint"):
                right.plot(values["stages"][-len(found) :], found, color=line.get_color(), **other)
        most = max(max(values["positives_per_object"]) for values in numbers.values())
        left.set(xlabel="stage", ylabel="positives per object", ylim=(0, 1.15 * most))
        right.set(xlabel="stage", ylabel="objects that change queries", ylim=(0, 1))
        for axes in (left, right):
            axes.xaxis.get_major_locator().set_params(integer=True)
        first, *others = numbers
        _legend_above(left, {"from the stage before": before, **({f"from {first}": other} if others else {})})


def _legend_above(axes: Any, styles: Mapping[str, Mapping[str, Any]]) -> None:
    """One legend for the whole figure, above it, where it hides no line: the models by colour, then the styles."""
    for name, style in styles.items():
        axes.plot([], [], color="grey", label=name, **style)
    axes.figure.legend(loc="outside upper left", ncols=3)


def _padded(matches: Tensor, others: Tensor) -> Tensor:
    """Matches [S, B, N] with as many queries as the others have, at least."""
    missing = max(0, others.shape[-1] - matches.shape[-1])
    return torch.nn.functional.pad(matches, (0, missing), value=-1)
