"""The report of a table, made from the files of its runs. Read `report_of` first."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta

from crossstage.checkpoints.load import some
from crossstage.errors import InputError
from crossstage.files import strict_json, write_text
from crossstage.reproduction.intervals import Estimate, difference, mean_of_seeds
from crossstage.reproduction.rows import Row
from crossstage.reproduction.runs import Request, Run, command_line

RULE = (
    "Iterations on the generated set: train.max_iter of the row's toy config, times the row's epochs over the "
    "fewest epochs of its project's rows in this table, times --epochs-scale. On COCO: those of the full config times "
    "--epochs-scale. The schedule stretches with them."
)
INTERVALS = (
    "±: half of the 95 % Student-t interval of the mean over seeds. Delta: against the baseline row of this table, "
    "paired by seed where both have the same seeds, else Welch's interval. One seed has no interval."
)
COLUMNS = ("row", "iterations", "{published}", "our AP, {seeds}", "mean", "our AP50, {seeds}", "mean", "delta of AP")
Planned = Mapping[str, Sequence[Run]]  # the runs of each row that can be run, by the row's name


@dataclass(frozen=True)
class RunReport:
    """One run.

    Attributes:
        state: "finished", or what is missing.
        ap: AP in percent; None if the run is not finished.
        ap50: AP50 in percent; None if the run is not finished.
        starts: time, commit and device of each start of the run.
        command: the command of the run.
    """

    seed: int
    iterations: int
    state: str
    ap: float | None
    ap50: float | None
    training_seconds: float
    starts: list[dict[str, str]]
    command: str


@dataclass(frozen=True)
class RowReport:
    """A row with its runs.

    Attributes:
        ap: AP over the finished seeds; None if no seed is finished.
        ap50: AP50 over the finished seeds; None if no seed is finished.
        delta: AP minus the AP of `row.baseline`; None if one of them is unknown.
    """

    row: Row
    runs: list[RunReport]
    ap: Estimate | None
    ap50: Estimate | None
    delta: Estimate | None

    @property
    def finished(self) -> list[RunReport]:
        """The finished runs."""
        return [run for run in self.runs if run.ap is not None]

    @property
    def missing(self) -> str:
        """What is missing, or "" if all seeds are finished."""
        if not self.runs:
            return "cannot be run: --rows with its name says why"
        return "; ".join(f"seed {run.seed}: {run.state}" for run in self.runs if run.ap is None)


def report_of(request: Request, planned: Planned) -> list[RowReport]:
    """All rows of the table in its order, also those that were not run. Runs with other settings do not count."""
    runs = {row.name: [_run_report(run, request.gpus) for run in planned.get(row.name, ())] for row in request.rows}
    scores = {name: {run.seed: run.ap for run in found if run.ap is not None} for name, found in runs.items()}
    reports = []
    for row in request.rows:
        ours, theirs = scores[row.name], scores.get(row.baseline)
        ap50 = [run.ap50 for run in runs[row.name] if run.ap50 is not None]
        delta = difference(ours, theirs) if ours and theirs else None
        reports.append(RowReport(row, runs[row.name], _mean(list(ours.values())), _mean(ap50), delta))
    return reports


def _mean(values: Sequence[float]) -> Estimate | None:
    return mean_of_seeds(values) if values else None


def _run_report(run: Run, gpus: int) -> RunReport:
    record, ap, ap50 = run.record(), None, None
    saved = f"{run.saved_iterations()} of {run.iterations} iterations are saved"
    if different := run.differences():
        state = f"other settings: {some(different)}"
    elif run.is_finished():
        try:
            ap, ap50 = run.scores().values()
            state = "finished"
        except InputError as error:
            state = str(error)
    elif record["error"]:
        state = f"failed ({saved}): {record['error']}"
    else:
        state = f"stopped ({saved})" if run.is_begun() else "not run"
    command = command_line(run.command(gpus))
    return RunReport(run.seed, run.iterations, state, ap, ap50, run.training_seconds(), record["starts"], command)


def table(reports: Sequence[RowReport], request: Request) -> str:
    """The table in Markdown. On the generated set, the head of the published column says that it is about COCO."""
    published = "published AP" + (", COCO" if request.is_generated else "")
    seeds = f"seeds 0..{request.seeds - 1}" if request.seeds > 1 else "seed 0"
    heads = [head.format(published=published, seeds=seeds) for head in (*COLUMNS, "training time")]
    rows = [[cell.replace("|", "\\|").replace("\n", " ") for cell in _cells(report)] for report in reports]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))


def _cells(report: RowReport) -> list[str]:
    row, finished = report.row, report.finished
    delta = "-" if row.baseline else "baseline"
    if report.delta is not None:
        delta = f"{report.delta.signed()} vs {row.baseline} ({report.delta.method})"
    return [
        row.name,
        str(report.runs[0].iterations) if report.runs else "-",
        "-" if row.paper_ap is None else f"{row.paper_ap:.1f} ({row.source})",
        " / ".join(f"{run.ap:.2f}" for run in finished) or report.missing,
        str(report.ap or "-"),
        " / ".join(f"{run.ap50:.2f}" for run in finished) or "-",
        str(report.ap50 or "-"),
        delta,
        " / ".join(str(timedelta(seconds=round(run.training_seconds))) for run in finished) or "-",
    ]


def markdown(reports: Sequence[RowReport], request: Request) -> str:
    """The text of report.md: the table, its data, missing runs, and the command, commit and device of each run."""
    lines = [f"# Table {request.table} on {request.data}", ""]
    lines += [f"Ours is measured on {described(request)}. {RULE}", "", INTERVALS, ""]
    lines += [f"--epochs-scale {request.scale:g}, --seeds {request.seeds}, written {_now()}.", ""]
    if request.is_generated:
        lines += ["The published figures are for COCO val2017; they cannot be compared with ours.", ""]
    lines += [table(reports, request)]
    if missing := [f"- {report.row.name}: {report.missing}" for report in reports if report.missing]:
        lines += ["", "## Missing", "", *missing]
    lines += ["", "## Runs", ""]
    for report in reports:
        for run in (run for run in report.runs if run.starts):
            lines += [f"{report.row.name}, seed {run.seed}: {run.state}", ""]
            lines += [f"- {start['time']}, commit {start['commit']}, {start['device']}" for start in run.starts]
            lines += ["", "```", run.command, "```", ""]
    return "\n".join(lines).rstrip() + "\n"


def described(request: Request) -> str:
    """One phrase that names the data of the figures."""
    if not request.is_generated:
        return "COCO: train2017, evaluated on val2017"
    try:
        settings = json.loads((request.root / "toy.json").read_text(encoding="utf-8"))
        return (
            f"the generated set: {settings['train']} training images, {settings['val']} to evaluate, preset "
            f"{settings['preset']}, size {settings['size']}, seed {settings['seed']}"
        )
    except (OSError, ValueError, KeyError, TypeError):
        return "images in COCO's layout, not written by our generator"


def write(request: Request, planned: Planned) -> list[RowReport]:
    """Write report.md and report.json (the same with all digits), each completely or not at all; return the rows."""
    reports = report_of(request, planned)
    content = {
        "table": request.table,
        "data": request.data,
        "dataset": described(request),
        "epochs_scale": request.scale,
        "seeds": request.seeds,
        "written": _now(),
        "rule": RULE,
        "intervals": INTERVALS,
        "published_on": "COCO val2017",
        "rows": [{**asdict(report), "finished": not report.missing} for report in reports],
    }
    request.folder.mkdir(parents=True, exist_ok=True)
    write_text(request.folder / "report.md", markdown(reports, request))
    write_text(request.folder / "report.json", strict_json(content, indent=2) + "\n")
    return reports


def check_folder(request: Request) -> None:
    """Raise InputError if the folder holds the report of another table, which would be lost."""
    path = request.folder / "report.json"
    if not path.is_file():
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get("table")
    except (ValueError, AttributeError):
        found = "an unreadable file"
    if found != request.table:
        raise InputError(f"{path}: is of table {found}; choose another --output for table {request.table}")


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
