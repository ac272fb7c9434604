"""Draws the AP of rows over the iterations, and the changes of queries between stages, with intervals over seeds.

These are StageInteractor's Figures 1 and 7 for the runs of a table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from crossstage.inspection.figures import PAGE, paper_figure, write_numbers
from crossstage.reproduction.course import course_of, means_of
from crossstage.reproduction.intervals import Estimate, mean_of_seeds
from crossstage.reproduction.runs import Request, Run, read_object


def changes_of(runs: Sequence[Run]) -> list[Estimate]:
    """Per stage but the last: the share of objects that change their queries at the next stage, over seeds.

    It comes from RUN/queries/queries.json, which `crossstage inspect queries --output RUN/queries` writes for a run;
    empty if no run has one.

    Raises:
        InputError: if one cannot be read.
    """
    files = [path for run in runs if (path := run.folder / "queries" / "queries.json").is_file()]
    shares = [next(iter(read_object(path).values()))["query_changes"] for path in files]
    means = [mean_of_seeds(values) for values in zip(*shares, strict=True)]
    return [mean for mean in means if mean is not None]


def write_curves(request: Request, planned: Mapping[str, Sequence[Run]]) -> None:
    """Write curves.png, curves.pdf and curves.json into the folder of the request.

    Left, the AP over the iterations; right, if runs have a queries.json, the changes of queries between stages. A line
    is the mean over seeds, and its band the 95 % Student-t interval of the mean.
    """
    curves = {name: means for name, runs in planned.items() if (means := means_of(course_of(runs)))}
    changes = {name: shares for name, runs in planned.items() if (shares := changes_of(runs))}
    if not curves:
        return
    request.folder.mkdir(parents=True, exist_ok=True)
    stem = request.folder / "curves"
    columns = 2 if changes else 1
    with paper_figure(stem, columns=columns, width=PAGE / 2 * columns, height=2.6) as grid:
        for name, means in curves.items():
            _line(grid[0, 0], name, [*means], [*means.values()])
        grid[0, 0].set(xlabel="iterations", ylabel="AP")
        for name, shares in changes.items():
            _line(grid[0, 1], name, range(1, len(shares) + 1), shares)
        if changes:
            stages = range(1, max(map(len, changes.values())) + 1)
            grid[0, 1].set(xlabel="from stage", xticks=stages, ylabel="objects that change queries")
        for axes in grid.flat:
            axes.set_ylim(bottom=0)
            axes.legend(title="row (seeds)")
    rows = {
        name: [{"iteration": done, "ap": asdict(mean)} for done, mean in means.items()]
        for name, means in curves.items()
    }
    numbers = {
        "band": "95 % Student-t interval of the mean over seeds",
        "rows": rows,
        "query_changes": {name: [asdict(share) for share in shares] for name, shares in changes.items()},
    }
    write_numbers(stem.with_suffix(".json"), numbers)


def _line(axes: Any, name: str, places: Sequence[int], values: Sequence[Estimate]) -> None:
    """Draw means with their bands; one seed has no band."""
    means = [value.mean for value in values]
    (line,) = axes.plot(places, means, marker=".", label=f"{name} ({values[-1].count})")
    widths = [value.half_width or 0.0 for value in values]
    low, high = ([mean + sign * width for mean, width in zip(means, widths, strict=True)] for sign in (-1, 1))
    axes.fill_between(places, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
