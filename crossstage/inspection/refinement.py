"""What the iteration of a decoder does, step by step: `crossstage inspect refinement`.

One pass over the data scores every step. For a decoder that repeats one step, step 0 is the prediction before the first
application; for others a step is a stage, counted from 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from crossstage.engine.metrics import MetricsFile
from crossstage.errors import InputError
from crossstage.evaluation.coco import CocoEvaluator
from crossstage.files import replacing
from crossstage.inspection.figures import paper_figure, spread_out, write_numbers
from crossstage.inspection.pictures import corners_in, picture_of
from crossstage.inspection.stages import EveryStage, every_stage, one_stage, spread, trained_steps
from crossstage.modeling.detector import Detector
from crossstage.structures import ImageBatch, StageOutputs
from crossstage.visualize import Box, class_name, contact_sheet, draw_boxes, with_caption

DRAWN_QUERIES, LEAST_QUERIES, LEAST_SCORE = 10, 3, 0.3
ON_SHEET = 12
FRAME_MILLISECONDS = 400
QUANTILES = (0.05, 0.5, 0.95)
SCORES = ("AP", "AP50")

Numbers = dict[str, Any]


@dataclass
class StepScores:
    """What one pass over the data finds of each step.

    Attributes:
        make_evaluator: makes the evaluator of one step; None: no annotations, and so no AP.
        numbers: the number of each step.
        evaluators: one per step.
        absolute: norms of the change of the contents of each image, per batch [R, B]; see `changes`.
        relative: the same, divided by the norm of the contents after the step.
    """

    make_evaluator: Callable[[], CocoEvaluator] | None
    numbers: list[int] = field(default_factory=list)
    evaluators: list[CocoEvaluator] = field(default_factory=list)
    absolute: list[Tensor] = field(default_factory=list)
    relative: list[Tensor] = field(default_factory=list)

    def add(self, model: Detector, batch: ImageBatch, found: EveryStage) -> None:
        """Score every step for the images of a batch."""
        self.numbers = found.numbers
        if self.make_evaluator is not None and not self.evaluators:
            self.evaluators = [self.make_evaluator() for _ in self.numbers]
        for stage, evaluator in enumerate(self.evaluators):
            evaluator.process(batch, model.postprocess(one_stage(found.outputs, stage), batch))
        if found.outputs.states is not None:
            absolute, relative = changes(found.outputs.states, found.residuals)
            self.absolute.append(absolute.cpu())
            self.relative.append(relative.cpu())


def changes(states: Tensor, residuals: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """How far each step moves the contents of an image.

    Args:
        states: the contents after each step, [S, B, N, C].
        residuals: the relative residuals of the last R steps, [R, B], where a decoder knows what each step began from
            (a solver may combine several earlier states). None: each step begins from the state before it; R = S - 1.

    Returns:
        The norm of the change over queries and channels, and the same divided by the norm after the step, two [R, B]
        of at least float32.
    """
    states = states.to(torch.promote_types(states.dtype, torch.float32)).flatten(2)
    if residuals is None:
        residuals = (states[1:] - states[:-1]).norm(dim=-1) / states[1:].norm(dim=-1)
    return residuals * states[len(states) - len(residuals) :].norm(dim=-1), residuals


def look_at_refinement(
    model: Detector,
    batches: Iterable[ImageBatch],
    *,
    device: torch.device,
    steps: int | None,
    make_evaluator: Callable[[], CocoEvaluator] | None,
) -> tuple[StepScores, tuple[ImageBatch, StageOutputs]]:
    """Run a model once over the data and score every step.

    Args:
        model: in evaluation mode.
        batches: the images.
        device: of the model.
        steps: applications; see `every_stage`.
        make_evaluator: see `StepScores`.

    Returns:
        The scores, and the first batch with its predictions, for pictures.

    Raises:
        InputError: without any image.
    """
    scores, first = StepScores(make_evaluator), None
    for batch in batches:
        batch = batch.to(device)
        found = every_stage(model, batch, steps=steps)
        scores.add(model, batch, found)
        if first is None:
            first = batch, found.outputs
    if first is None:
        raise InputError("there is no image to look at")
    return scores, first


def write_residuals(scores: StepScores, folder: Path, *, trained: int | None) -> Numbers | None:
    """Draw residuals.png and write residuals.json: median and 90 % band over the images; None without states."""
    if not scores.relative:
        return None
    kinds = {"relative": torch.cat(scores.relative, dim=1), "absolute": torch.cat(scores.absolute, dim=1)}
    bands = {name: dict(zip(("low", "median", "high"), _bands(values), strict=True)) for name, values in kinds.items()}
    steps = scores.numbers[len(scores.numbers) - len(kinds["relative"]) :]
    numbers = {"steps": steps, "trained_steps": trained, "images": kinds["relative"].shape[1], **bands}
    write_numbers(folder / "residuals.json", numbers)
    with paper_figure(folder / "residuals", columns=2, width=5.0) as grid:
        for axes, (name, band) in zip(grid[0], bands.items(), strict=True):
            axes.fill_between(steps, band["low"], band["high"], alpha=0.25, linewidth=0)
            axes.plot(steps, band["median"])
            _mark_trained(axes, trained)
            axes.set(xlabel=_axis(trained), ylabel=f"{name} change of content")
            spread_out(axes, [*band["low"], *band["high"]])
            axes.xaxis.get_major_locator().set_params(integer=True)
    return numbers


def write_scores(
    scores: StepScores, folder: Path, *, trained: int | None, published: Sequence[Mapping[str, float]] = ()
) -> Numbers | None:
    """Draw ap_by_steps.png and write ap_by_steps.json.

    Args:
        scores: of all images.
        folder: for the files.
        trained: applications in training, which the figure marks, or None.
        published: figures of a paper, which are drawn too: "steps", "AP" and "AP50" of each.

    Returns:
        The numbers, or None if the images have no annotations.
    """
    if not scores.evaluators:
        return None
    evaluators, by_step = list(scores.evaluators), []
    scores.evaluators.clear()
    while evaluators:  # each reads the annotations and keeps them: none is kept longer than needed
        by_step.append(evaluators.pop(0).evaluate()["bbox"])
    curves = {name: [result[name] for result in by_step] for name in SCORES}
    numbers = {"steps": scores.numbers, "trained_steps": trained, **curves, "paper": list(published)}
    write_numbers(folder / "ap_by_steps.json", numbers)
    with paper_figure(folder / "ap_by_steps") as grid:
        axes = grid[0, 0]
        for name in SCORES:
            (line,) = axes.plot(scores.numbers, curves[name], marker="o", label=name)
            if published:
                points = [(row["steps"], row[name]) for row in published]
                label = f"{name}, paper"
                axes.plot(*zip(*points, strict=True), "x", color=line.get_color(), markersize=5, label=label)
        _mark_trained(axes, trained)
        axes.set(xlabel=_axis(trained), ylabel="percent")
        axes.set_ylim(bottom=0)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(loc="lower right")
    return numbers


def write_gradient_norms(files: Sequence[Path], folder: Path) -> Numbers:
    """Draw grad_norm.png, the norm of the gradients before clipping against the iteration (DEQDet, Figure 4).

    Args:
        files: the metrics.json of one or more runs; a run is called by its folder.
        folder: for the files.

    Returns:
        The numbers by run.

    Raises:
        InputError: if a file has no gradient norms.
    """
    runs: Numbers = {}
    for file in files:
        rows = [row for row in MetricsFile(file).read() if "grad_norm" in row]
        if not rows:
            raise InputError(
                f"--metrics {file}: has no grad_norm; expected the metrics.json of a run of crossstage train"
            )
        name = file.resolve().parent.name
        name = name if name not in runs else str(file)
        runs[name] = {"iteration": [row["iteration"] for row in rows], "grad_norm": [row["grad_norm"] for row in rows]}
    write_numbers(folder / "grad_norm.json", runs)
    with paper_figure(folder / "grad_norm") as grid:
        axes = grid[0, 0]
        for name, run in runs.items():
            axes.plot(run["iteration"], run["grad_norm"], linewidth=0.8, label=name)
        axes.set(xlabel="iteration", ylabel="gradient norm before clipping")
        spread_out(axes, [norm for run in runs.values() for norm in run["grad_norm"]])
        axes.legend()
    return runs


def write_boxes_over_steps(
    batch: ImageBatch, outputs: StageOutputs, numbers: Sequence[int], names: Sequence[str], folder: Path
) -> int:
    """Write refinement.gif and refinement_sheet.png: the boxes of the first image's best queries at every step.

    The same queries are drawn at every step, in the colour of their class at the last one: the best ten of those with
    a score of at least 0.3 there, or the best three. The sheet shows at most twelve steps.

    Args:
        batch: the images.
        outputs: the predictions of every step.
        numbers: the number of each step.
        names: class names.
        folder: for the files.

    Returns:
        The number of queries that are drawn.
    """
    best, labels = outputs.logits[-1, 0].sigmoid().max(-1)
    order = best.argsort(descending=True)[:DRAWN_QUERIES]
    chosen = order[: max(LEAST_QUERIES, int((best[order] >= LEAST_SCORE).sum()))]
    image, frames = picture_of(batch, 0), []
    for stage, number in enumerate(numbers):
        scores = outputs.logits[stage, 0, chosen, labels[chosen]].sigmoid().tolist()
        corners = corners_in(image, outputs.boxes[stage, 0, chosen])
        rows = zip(corners, labels[chosen].tolist(), scores, strict=True)
        boxes = [Box(box, label, f"{class_name(label, names)} {score:.0%}") for box, label, score in rows]
        frames.append(with_caption(draw_boxes(image, boxes[::-1]), f"step {number}"))
    save_animation(frames, folder / "refinement.gif")
    with replacing(folder / "refinement_sheet.png") as temporary:
        contact_sheet([frames[stage] for stage in spread(len(frames), ON_SHEET)]).save(temporary, format="PNG")
    return len(chosen)


def save_animation(frames: Sequence[Image.Image], path: Path) -> None:
    """Write pictures of one size as a GIF that repeats; the last one stays longer."""
    times = [FRAME_MILLISECONDS] * (len(frames) - 1) + [4 * FRAME_MILLISECONDS]
    with replacing(path) as temporary:
        frames[0].save(temporary, format="GIF", save_all=True, append_images=frames[1:], duration=times, loop=0)


def refinement_of(
    model: Detector,
    batches: Iterable[ImageBatch],
    folder: Path,
    *,
    device: torch.device,
    steps: int | None,
    make_evaluator: Callable[[], CocoEvaluator] | None,
    class_names: Sequence[str],
    published: Sequence[Mapping[str, float]] = (),
) -> Mapping[str, Numbers | None]:
    """Do everything of `crossstage inspect refinement` but the gradient norms; returns the numbers of each figure."""
    scores, (batch, outputs) = look_at_refinement(
        model, batches, device=device, steps=steps, make_evaluator=make_evaluator
    )
    trained = trained_steps(model)
    write_boxes_over_steps(batch, outputs, scores.numbers, class_names, folder)
    return {
        "residuals": write_residuals(scores, folder, trained=trained),
        "ap_by_steps": write_scores(scores, folder, trained=trained, published=published),
    }


def _bands(values: Tensor) -> Tensor:
    """Quantiles over the images: [R, I] -> [3, R]."""
    return values.double().quantile(torch.tensor(QUANTILES, dtype=torch.float64), dim=1)


def _axis(trained: int | None) -> str:
    return "stage" if trained is None else "applications of the step"


def _mark_trained(axes: Any, trained: int | None) -> None:
    if trained is not None:
        axes.axvline(trained, color="grey", linestyle="--", linewidth=0.8)
        place = axes.get_xaxis_transform()
        axes.text(trained, 1.01, f"T = {trained}", transform=place, ha="center", va="bottom", color="grey")
