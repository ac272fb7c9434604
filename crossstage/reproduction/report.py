"""The report of a table, made from the files of its runs. Read `reports_of` first."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta

from crossstage.checkpoints.load import some
from crossstage.errors import InputError
from crossstage.files import strict_json, write_text
from crossstage.reproduction.course import course_lines
from crossstage.reproduction.intervals import Estimate, PairedTests, mean_of_seeds, paired_tests
from crossstage.reproduction.rows import Row
from crossstage.reproduction.runs import Request, Run, command_line, read_object

INTERVALS = (
    "±: half of the 95 % Student-t interval of the mean over seeds. Delta: against the baseline row of this table, "
    "paired over the seeds that both rows have. One seed has no interval."
)
TESTS = (
    "Differences of AP, paired by seed. Bootstrap: the 95 % BCa interval of their mean, from five seeds on; with few "
    "seeds it is too narrow. p: two-sided, of the sign test and of the permutation test that flips signs; n seeds "
    "cannot give a p below 2 / 2^n, which is 0.0625 with five. The p-values are not corrected for the number of rows."
)
COURSE = "AP over the training of the finished runs, by iterations done, and its differences, paired by seed."
TEST_HEADS = "row | baseline | differences by seed | mean | above 0 | bootstrap | p, sign test | p, permutation"
PUBLISHED = "The published figures are for COCO val2017."
HEADS = "row | iterations | {published} | our AP, {seeds} | mean | our AP50, {seeds} | mean | delta | training time"
GINI = {".3": "gini_0.3", ".5": "gini_0.5"}  # threshold in the head of a column: name of the query metric
Planned = Mapping[str, Sequence[Run]]  # the runs of each row that can be run, by the row's name


@dataclass(frozen=True)
class RunReport:
    """One run. `state` is "finished" or what is missing; `scores` are AP and AP50 in percent, or empty.

    `queries` are its query metrics (`train.query_metrics`), or empty.
    """

    seed: int
    state: str
    scores: dict[str, float]
    iterations: int
    training_seconds: float
    starts: list[dict[str, str]]
    command: str
    queries: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RowReport:
    """A row with its runs: the paper's AP in words, and ours over the finished seeds (None if there are none).

    `delta` is AP minus the AP of `row.baseline`, by seed, and `tests` says whether it may be 0. `gini` has the Gini
    coefficients of the activations of the seeds that have them, by threshold, as in `GINI`; it is empty if no run of
    the table has any.
    """

    row: Row
    published: str
    runs: list[RunReport]
    ap: Estimate | None
    ap50: Estimate | None
    delta: Estimate | None
    tests: PairedTests | None
    gini: dict[str, Estimate | None] = field(default_factory=dict)

    @property
    def missing(self) -> str:
        """What is missing, or "" if all seeds are finished."""
        if not self.runs:
            return "cannot be run: --rows with its name says why"
        return "; ".join(f"seed {run.seed}: {run.state}" for run in self.runs if not run.scores)

    def cells(self) -> list[str]:
        """The row of the report's table."""
        finished, baseline, delta = [run for run in self.runs if run.scores], self.row.baseline, self.delta
        times = [] if self.row.trained_as else [timedelta(seconds=round(run.training_seconds)) for run in finished]
        versus = f" vs {baseline} ({delta.count} seed{'s' * (delta.count > 1)})" if delta else ""
        return [
            self.row.name,
            str(self.runs[0].iterations) if self.runs else "-",
            self.published,
            " / ".join(f"{run.scores['AP']:.2f}" for run in finished) or self.missing,
            str(self.ap or "-"),
            " / ".join(f"{run.scores['AP50']:.2f}" for run in finished) or "-",
            str(self.ap50 or "-"),
            delta.signed() + versus if delta else "-" if baseline else "baseline",
            *(str(mean or "-") for mean in self.gini.values()),
            " / ".join(map(str, times)) or "-",
        ]


def reports_of(request: Request, planned: Planned) -> list[RowReport]:
    """All rows of the table in its order, also those that were not run. Runs with other settings do not count."""
    table = request.table
    runs = {row.name: [_run_report(run, request) for run in planned.get(row.name, ())] for row in table.rows}
    scores = {name: {run.seed: run.scores for run in found if run.scores} for name, found in runs.items()}
    counted = GINI if any(run.queries for found in runs.values() for run in found) else {}
    reports = []
    for row in table.rows:
        ours, theirs = scores[row.name], scores.get(row.baseline, {})
        ap, ap50 = (mean_of_seeds([found[name] for found in ours.values()]) for name in ("AP", "AP50"))
        differences = {seed: ours[seed]["AP"] - theirs[seed]["AP"] for seed in ours if seed in theirs}
        delta, tests = mean_of_seeds([*differences.values()]), paired_tests(differences)
        queries = [run.queries for run in runs[row.name]]
        gini = {
            threshold: mean_of_seeds([found[name] for found in queries if name in found])
            for threshold, name in counted.items()
        }
        reports.append(RowReport(row, table.published_ap(row), runs[row.name], ap, ap50, delta, tests, gini))
    return reports


def _run_report(run: Run, request: Request) -> RunReport:
    record, scores, queries = run.record(), {}, {}
    saved = f" ({run.saved_iterations()} of {run.iterations} iterations are saved)" if run.weights is None else ""
    if different := run.differences():
        state = f"other settings: {some(different)}"
    elif run.is_finished():
        try:
            state, scores = "finished", run.scores(last=1 if run.weights else request.last)
            queries = run.query_metrics()
        except InputError as error:
            state = str(error)
    elif record["error"]:
        state = f"failed{saved}: {record['error']}"
    else:
        state = f"stopped{saved}" if run.is_begun() and run.weights is None else "not run"
    command = command_line(run.command(request.gpus))
    return RunReport(
        run.seed, state, scores, run.iterations, run.training_seconds(), record["starts"], command, queries
    )


def table(reports: Sequence[RowReport], request: Request) -> str:
    """The table in Markdown. On other data than COCO, the head of the published column says that it is about COCO."""
    published = "published AP" + (", COCO" if request.data != "coco" else "")
    seeds = f"seeds 0..{request.seeds - 1}" if request.seeds > 1 else "seed 0"
    *heads, last = HEADS.format(published=published, seeds=seeds).split(" | ")
    heads += [f"Gini of activations at {threshold}" for threshold in (reports[0].gini if reports else ())] + [last]
    return _markdown_table(heads, [report.cells() for report in reports])


def tests_table(reports: Sequence[RowReport]) -> str:
    """The tests of the differences in Markdown, or "" if no row has two seeds in common with its baseline."""
    rows = []
    for report in reports:
        if report.tests is not None and report.delta is not None:
            differences = " / ".join(f"{value:+.2f}" for value in report.tests.differences.values())
            rows.append(
                [report.row.name, report.row.baseline, differences, report.delta.signed(), *report.tests.cells()]
            )
    return _markdown_table(TEST_HEADS.split(" | "), rows) if rows else ""


def _markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    escaped = [[cell.replace("|", "\\|").replace("\n", " ") for cell in cells] for cells in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *escaped))


def markdown(reports: Sequence[RowReport], request: Request, course: Sequence[Sequence[str]] = ()) -> str:
    """The text of report.md: the table, its data, missing runs, and the command, commit and device of each run.

    `course` are the lines of `course_lines`.
    """
    missing = [f"- {report.row.name}: {report.missing}" for report in reports if report.missing]
    notes = [f"- {report.row.name}: {report.row.note}" for report in reports if report.row.note]
    tests = tests_table(reports)
    lines = [
        f"# {request.table.title} ({request.root.name if request.data == 'own' else request.data})",
        f"Ours is measured on {described(request)}. {_iterations(request)}",
        INTERVALS,
        f"--epochs-scale {request.scale:g}, --seeds {request.seeds}, written {_now()}.",
        *([f"A run's score is the mean of its last {request.last} evaluations."] if request.last > 1 else []),
        PUBLISHED + " They cannot be compared with ours." * (request.data != "coco"),
        table(reports, request),
        *([TESTS, tests] if tests else []),
        *([COURSE, _markdown_table(course[0], course[1:])] if course else []),
        *(["## Notes", "\n".join(notes)] if notes else []),
        *(["## Missing", "\n".join(missing)] if missing else []),
        "## Runs",
    ]
    for report in reports:
        for run in (run for run in report.runs if run.starts):
            starts = [f"- {start['time']}, commit {start['commit']}, {start['device']}" for start in run.starts]
            lines += [f"{report.row.name}, seed {run.seed}: {run.state}", "\n".join(starts), f"```\n{run.command}\n```"]
    return "\n\n".join(lines) + "\n"


def _iterations(request: Request) -> str:
    toy = "toy config, times the row's epochs over the fewest epochs of its project's rows in this table,"
    counted = "config" if request.data == "coco" else toy
    return f"Iterations: train.max_iter of the row's {counted} times --epochs-scale. The schedule stretches with them."


def described(request: Request) -> str:
    """One phrase that names the data of the figures."""
    if request.data == "coco":
        return "COCO: train2017, evaluated on val2017"
    if request.data == "own":
        return f"the pictures of {request.root.name}"
    try:
        settings = read_object(request.root / "toy.json")
        return (
            f"the generated set: {settings['train']} training images, {settings['val']} to evaluate, preset "
            f"{settings['preset']}, size {settings['size']}, seed {settings['seed']}"
        )
    except (InputError, KeyError):
        return "images in COCO's layout, not written by our generator"


def write(request: Request, planned: Planned) -> list[RowReport]:
    """Write report.md and report.json (the same with all digits), each completely or not at all; return the rows."""
    reports, course = reports_of(request, planned), course_lines(request.table.rows, planned)
    content = {
        "table": request.table.title,
        "data": request.data,
        "dataset": described(request),
        "epochs_scale": request.scale,
        "seeds": request.seeds,
        "evaluations": request.evaluations,
        "last": request.last,
        "written": _now(),
        "notes": [_iterations(request), INTERVALS, TESTS, PUBLISHED],
        "rows": [{**asdict(report), "finished": not report.missing} for report in reports],
        "course": course,
    }
    request.folder.mkdir(parents=True, exist_ok=True)
    write_text(request.folder / "report.md", markdown(reports, request, course))
    write_text(request.folder / "report.json", strict_json(content, indent=2) + "\n")
    return reports


def check_folder(request: Request) -> None:
    """Raise InputError if the folder holds the report of another table, which would be lost."""
    path = request.folder / "report.json"
    if path.is_file() and (found := read_object(path).get("table")) != request.table.title:
        raise InputError(f"{path}: is of {found}; choose another --output for {request.table.title}")


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
