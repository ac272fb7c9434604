"""The AP of rows over a training, evaluation by evaluation: whether a difference is one of speed or of the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from crossstage.reproduction.intervals import Estimate, mean_of_seeds
from crossstage.reproduction.rows import Row
from crossstage.reproduction.runs import Run

Course = dict[int, dict[int, float]]  # AP by number of iterations done, then by seed


def course_of(runs: Sequence[Run]) -> Course:
    """The evaluations of the runs of one row, finished or not."""
    found: Course = {}
    for run in runs:
        for evaluation in run.evaluations():
            # The one at the end is logged with the number of iterations, the others with the index of the last one.
            done = min(int(evaluation["iteration"]) + 1, run.iterations)
            found.setdefault(done, {})[run.seed] = evaluation["AP"]
    return dict(sorted(found.items()))


def means_of(course: Course) -> dict[int, Estimate]:
    """The mean over seeds by number of iterations."""
    means = {done: mean_of_seeds([*by_seed.values()]) for done, by_seed in course.items()}
    return {done: mean for done, mean in means.items() if mean is not None}


def difference(ours: Course, theirs: Course) -> Course:
    """One row less another, where both have an evaluation of the same seed after as many iterations."""
    paired = {
        done: {seed: ap - theirs[done][seed] for seed, ap in by_seed.items() if seed in theirs[done]}
        for done, by_seed in ours.items()
        if done in theirs
    }
    return {done: by_seed for done, by_seed in paired.items() if by_seed}


def course_lines(rows: Sequence[Row], planned: Mapping[str, Sequence[Run]]) -> list[list[str]]:
    """The cells of a table: a head with the iterations, each row, and each row less its baseline.

    Args:
        rows: of the table.
        planned: the runs of each row, by its name.

    Returns:
        The lines; empty if no row has two evaluations in a training.
    """
    finished = {row.name: [run for run in planned.get(row.name, ()) if run.is_finished()] for row in rows}
    courses = {name: course for name, runs in finished.items() if len(course := course_of(runs)) > 1}
    if not courses:
        return []
    places = sorted({done for course in courses.values() for done in course})
    lines = [["row", *map(str, places)]]
    for name, course in courses.items():
        means = means_of(course)
        lines.append([name, *(str(means.get(done, "-")) for done in places)])
    for row in rows:
        if row.name in courses and row.baseline in courses:
            means = means_of(difference(courses[row.name], courses[row.baseline]))
            cells = [means[done].signed() if done in means else "-" for done in places]
            lines.append([f"{row.name} less {row.baseline}", *cells])
    return lines
