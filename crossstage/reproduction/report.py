"""The report of a table: read `report_of` first. All of it comes from what the runs left on disk."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from rich.table import Table

from crossstage.checkpoints.load import some
from crossstage.errors import InputError
from crossstage.files import write_text
from crossstage.reproduction.data import described
from crossstage.reproduction.intervals import Estimate, difference, mean_of_seeds
from crossstage.reproduction.rows import Row
from crossstage.reproduction.runs import Request, Run, command_line

NOT_OURS = "not in our facts"
RULE = (
    "Iterations on the generated set: train.max_iter of the row's toy config, times the row's epochs over the "
    "fewest epochs of its project's rows in this table, times --epochs-scale. On COCO: those of the full config times "
    "--epochs-scale. The schedule stretches with them."
)
INTERVALS = (
    "±: half of the 95 % Student-t interval of the mean over seeds. Delta: against the baseline row of this table, "
    "paired by seed where both have the same seeds, else Welch's interval. One seed has no interval."
)


@dataclass(frozen=True)
class RunReport:
    """One run: `state` is "finished", or says what is missing; AP, AP50 in percent of a finished one, else None."""

    seed: int
    iterations: int
    state: str
    ap: float | None
    ap50: float | None
    training_seconds: float
    starts: list[dict[str, str]]  # time, commit, device of each
    command: str


@dataclass(frozen=True)
class RowReport:
    """A row with its runs; ap, ap50: over its finished seeds; delta: AP less that of `row.baseline`; None = unknown."""

    row: Row
    runs: list[RunReport]
    ap: Estimate | None
    ap50: Estimate | None
    delta: Estimate | None

    @property
    def by_seed(self) -> dict[int, float]:
        """AP of the finished runs."""
        return {run.seed: run.ap for run in self.runs if run.ap is not None}

    @property
    def published(self) -> str:
        """The published figure with its source."""
        return NOT_OURS if self.row.paper_ap is None else f"{self.row.paper_ap:.1f} ({self.row.source})"

    @property
    def states(self) -> str:
        """ "" if all seeds are finished, else what is missing."""
        if not self.runs:
            return "cannot be run: --rows with its name says why"
        return "; ".join(f"seed {run.seed}: {run.state}" for run in self.runs if run.ap is None)


Planned = Mapping[str, Sequence[Run]]  # the runs of each row that can be run, by the row's name


def report_of(request: Request, planned: Planned) -> list[RowReport]:
    """All rows of the table, run or not, in its order; runs with other settings than asked for do not count."""
    found = []
    for row in request.rows:
        runs = [_run_report(run, request.gpus) for run in planned.get(row.name, ())]
        found.append((row, runs, [run for run in runs if run.ap is not None]))
    scores = {row.name: {run.seed: run.ap for run in finished} for row, _, finished in found}
    reports = []
    for row, runs, finished in found:
        ap = mean_of_seeds([run.ap for run in finished]) if finished else None
        ap50 = mean_of_seeds([run.ap50 for run in finished]) if finished else None
        theirs = scores.get(row.baseline)
        delta = difference(scores[row.name], theirs) if finished and theirs else None
        reports.append(RowReport(row, runs, ap, ap50, delta))
    return reports


def _run_report(run: Run, gpus: int) -> RunReport:
    record, ap, ap50 = run.record(), None, None
    if different := run.differences():
        state = f"other settings: {some(different)}"
    elif run.is_finished():
        try:
            ap, ap50 = run.scores().values()
            state = "finished"
        except InputError as error:
            state = str(error)
    else:
        state = _unfinished(run, record["error"])
    command = command_line(run.command(gpus))
    return RunReport(run.seed, run.iterations, state, ap, ap50, run.training_seconds(), record["starts"], command)


def _unfinished(run: Run, error: str) -> str:
    saved = f"{run.saved_iterations()} of {run.iterations} iterations are saved"
    if error:
        return f"failed ({saved}): {error}"
    return f"stopped ({saved})" if run.is_begun() else "not run"


def cells(report: RowReport) -> tuple[str, ...]:
    """The row of the table, by `columns`."""
    finished = [run for run in report.runs if run.ap is not None]
    missing = report.states or "-"
    delta = "baseline" if not report.row.baseline else "-"
    if report.delta is not None:
        delta = f"{report.delta.signed()} vs {report.row.baseline} ({report.delta.method})"
    return (
        report.row.name,
        str(report.runs[0].iterations) if report.runs else "-",
        report.published,
        " / ".join(f"{run.ap:.2f}" for run in finished) or missing,
        str(report.ap) if report.ap else "-",
        " / ".join(f"{run.ap50:.2f}" for run in finished) or "-",
        str(report.ap50) if report.ap50 else "-",
        delta,
        " / ".join(_duration(run.training_seconds) for run in finished) or "-",
    )


def columns(request: Request) -> tuple[str, ...]:
    """The heads of the table; on the generated set the published column says that it is about other data."""
    published = "published AP" + (", COCO" if request.data.is_generated else "")
    seeds = f"seeds 0..{request.seeds - 1}" if request.seeds > 1 else "seed 0"
    return (
        "row",
        "iterations",
        published,
        f"our AP, {seeds}",
        "mean",
        f"our AP50, {seeds}",
        "mean",
        "delta of AP",
        "training time",
    )


def markdown(reports: Sequence[RowReport], request: Request) -> str:
    """report.md: the table, what it was made from, what is missing, and each run's command, commit, device."""
    heads = columns(request)
    lines = [f"# Table {request.table} on {request.data.name}", "", *notes(request), ""]
    lines += ["| " + " | ".join(heads) + " |", "| " + " | ".join("---" for _ in heads) + " |"]
    lines += ["| " + " | ".join(_escaped(cell) for cell in cells(report)) + " |" for report in reports]
    if missing := [f"- {report.row.name}: {report.states}" for report in reports if report.states]:
        lines += ["", "## Missing", "", *missing]
    lines += ["", "## Runs", ""]
    for report in reports:
        for run in (run for run in report.runs if run.starts):
            lines += [f"{report.row.name}, seed {run.seed}: {run.state}", ""]
            lines += [f"- {start['time']}, commit {start['commit']}, {start['device']}" for start in run.starts]
            lines += ["", "```", run.command, "```", ""]
    return "\n".join(lines).rstrip() + "\n"


def notes(request: Request) -> list[str]:
    """The paragraphs that say how to read the table."""
    said = [f"Ours is measured on {described(request.data, request.root)}. {RULE}", "", INTERVALS, ""]
    said.append(f"--epochs-scale {request.scale:g}, --seeds {request.seeds}, written {_now()}.")
    if request.data.is_generated:
        said += ["", "The published figures are of COCO val2017 and cannot be compared with ours, which are not."]
    return said


def as_json(reports: Sequence[RowReport], request: Request) -> dict[str, Any]:
    """report.json: the same, with all digits."""
    return {
        "table": request.table,
        "data": request.data.name,
        "dataset": described(request.data, request.root),
        "epochs_scale": request.scale,
        "seeds": request.seeds,
        "written": _now(),
        "rule": RULE,
        "intervals": INTERVALS,
        "published_on": "COCO val2017",
        "rows": [{**asdict(report), "finished": not report.states} for report in reports],
    }


def write(request: Request, planned: Planned) -> list[RowReport]:
    """Write report.md and report.json into `request.folder`, each as a whole; return what they say."""
    reports = report_of(request, planned)
    request.folder.mkdir(parents=True, exist_ok=True)
    write_text(request.folder / "report.md", markdown(reports, request))
    write_text(request.folder / "report.json", json.dumps(as_json(reports, request), indent=2) + "\n")
    return reports


def check_folder(request: Request) -> None:
    """Raise InputError if the folder holds the report of another table: it would be lost."""
    path = request.folder / "report.json"
    if not path.is_file():
        return
    try:
        table = json.loads(path.read_text(encoding="utf-8")).get("table")
    except (ValueError, AttributeError):
        table = "an unreadable file"
    if table != request.table:
        raise InputError(f"{path}: is of table {table}; choose another --output for table {request.table}")


def rich_table(reports: Sequence[RowReport], request: Request) -> Table:
    """The table for the terminal."""
    table = Table(title=f"Table {request.table} on {request.data.name}", show_lines=True)
    for head in columns(request):
        table.add_column(head, overflow="fold")
    for report in reports:
        table.add_row(*cells(report))
    return table


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
