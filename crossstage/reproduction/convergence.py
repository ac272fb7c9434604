"""Draws the AP of rows over the iterations, with intervals over seeds (StageInteractor, Figure 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from crossstage.inspection.figures import PAGE, paper_figure, write_numbers
from crossstage.reproduction.intervals import Estimate, mean_of_seeds
from crossstage.reproduction.runs import Request, Run


@dataclass(frozen=True)
class Point:
    """The AP of a row at an iteration, over the seeds that were evaluated there."""

    iteration: int
    ap: Estimate


def points_of(runs: Sequence[Run]) -> list[Point]:
    """The evaluations of the runs of one row, finished or not, by iteration."""
    found: dict[int, list[float]] = {}
    for run in runs:
        for evaluation in run.evaluations():
            found.setdefault(int(evaluation["iteration"]), []).append(evaluation["AP"])
    means = {iteration: mean_of_seeds(values) for iteration, values in sorted(found.items())}
    return [Point(iteration, mean) for iteration, mean in means.items() if mean is not None]


def write_curves(request: Request, planned: Mapping[str, Sequence[Run]]) -> None:
    """Write curves.png, curves.pdf and curves.json into the folder of the request.

    A line is the mean over seeds, and its band the 95 % Student-t interval of the mean.
    """
    curves = {name: points for name, runs in planned.items() if (points := points_of(runs))}
    if not curves:
        return
    request.folder.mkdir(parents=True, exist_ok=True)
    stem = request.folder / "curves"
    with paper_figure(stem, width=PAGE / 2, height=2.6) as grid:
        axes = grid[0, 0]
        for name, points in curves.items():
            iterations = [point.iteration for point in points]
            means = [point.ap.mean for point in points]
            (line,) = axes.plot(iterations, means, marker=".", label=f"{name} ({points[-1].ap.count})")
            widths = [point.ap.half_width or 0.0 for point in points]
            low, high = ([mean + sign * width for mean, width in zip(means, widths, strict=True)] for sign in (-1, 1))
            axes.fill_between(iterations, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        axes.set(xlabel="iterations", ylabel="AP")
        axes.set_ylim(bottom=0)
        axes.legend(title="row (seeds)", title_fontsize="medium")
    rows = {name: [asdict(point) for point in points] for name, points in curves.items()}
    write_numbers(stem.with_suffix(".json"), {"band": "95 % Student-t interval of the mean over seeds", "rows": rows})
