"""The work of `crossstage reproduce`: runs what is not finished, one run after the other. Read `run_table` first."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown

from crossstage.checkpoints.load import some
from crossstage.config.source import files_run_once
from crossstage.engine.output import held
from crossstage.engine.provenance import commit_name, device_name
from crossstage.errors import InputError
from crossstage.reproduction import report
from crossstage.reproduction.convergence import write_curves
from crossstage.reproduction.merge import merge
from crossstage.reproduction.preparation import preparations, prepare
from crossstage.reproduction.process import Ended, run_child
from crossstage.reproduction.questions import EVALUATIONS, ROOT, SEEDS, question_of
from crossstage.reproduction.rows import Row
from crossstage.reproduction.runs import Request, Run, command_line
from crossstage.reproduction.tables import table_of

SCALES = {"small": 0.4}  # all rows of Table 4 in less than an hour on two CPU cores
ROOTS = {"toy": "datasets/toy_easy", "coco": "datasets/coco"}
LOCK = ".reproduce.lock"  # the training has a lock of its own
ANNOTATIONS = ("annotations/instances_train2017.json", "annotations/instances_val2017.json")


def run_table(args: argparse.Namespace, again: str) -> int:
    """Do everything from the command line to the report.

    Args:
        args: the command line.
        again: the command that continues after an interruption, for messages.

    Returns:
        0, or 1 if a row failed, or 128 + signal number if a signal stopped it.

    Raises:
        InputError: before anything starts.
    """
    request, asked = request_of(args)
    if not args.dry_run:
        for folder in args.merge:
            merge(Path(folder).expanduser(), request)
    planned = plan(request, asked)
    # One seed of all rows is run before the next seed, and the trainings before the evaluations of their weights.
    runs = [run for row in asked for run in planned[row.name]]
    runs.sort(key=lambda run: (run.seed, run.weights is not None))
    missing = preparations(request, args.question, runs)
    if args.dry_run:
        if not request.has_data and request.data != "toy":
            print(f"# there is no dataset at {request.root}")
        for step in missing:
            print(command_line(step.command))
        for run in runs:
            print(f"# {run.row.name}, seed {run.seed}; AP in the paper: {request.table.published_ap(run.row)}")
            print(("# finished: " if run.is_finished() else "") + command_line(run.command(request.gpus)))
        return 0
    stopped = prepare(missing)
    if not stopped:
        stopped = run_all(request, planned, runs)
    if args.curves:
        write_curves(request, planned)
    return conclude(request, planned, asked, stopped=stopped, again=again)


def request_of(args: argparse.Namespace) -> tuple[Request, tuple[Row, ...]]:
    """The request and the chosen rows. Raises InputError for an unknown row or an impossible number."""
    question = question_of(args.question) if args.question else None
    if question is not None and (args.paper or args.data):
        raise InputError("--question: has a paper and data of its own; leave --paper and --data out")
    paper = args.paper or "stageinteractor"
    table = question.as_table() if question else table_of(paper, args.table)
    data = question.data if question else args.data or "toy"
    if data == "own" and not args.root:
        raise InputError("--root: expected the folder of your data, as dataloader.data takes it")
    # argparse also puts the overrides that follow --rows into its list.
    overrides = (*(name for name in args.rows if "=" in name), *args.opts)
    if stray := [text for text in args.opts if "=" not in text and not text.startswith("~")]:
        raise InputError(f"{stray[0]}: expected key=value; rows are named by --rows {stray[0]}")
    asked = table.chosen([name for name in args.rows if "=" not in name])
    check_given(overrides)
    seeds, evaluations = (SEEDS, EVALUATIONS) if question else (1, 1)
    request = Request(
        table,
        data,
        Path(args.root or (ROOT if question else ROOTS[data])).expanduser(),
        Path(args.output or f"output/{f'questions/{args.question}' if question else f'{paper}/table{args.table}'}"),
        scale_of(args.epochs_scale),
        seeds if args.seeds is None else args.seeds,
        args.num_gpus,
        overrides,
        evaluations if args.evaluations is None else args.evaluations,
        args.last,
    )
    check_numbers(request)
    return replace(request, output=request.output.expanduser()), asked


def check_given(overrides: Sequence[str]) -> None:
    """Raise InputError for an override of a key that the request sets."""
    for text in overrides:
        if text.lstrip("+~").startswith(("train.output_dir", "dataloader.root", "dataloader.data=", "train.seed")):
            raise InputError(f"{text}: given by --output, --root and --seeds here")


def check_numbers(request: Request) -> None:
    """Raise InputError for an impossible number."""
    numbers = {
        "--seeds": request.seeds,
        "--num-gpus": request.gpus,
        "--evaluations": request.evaluations,
        "--last": request.last,
    }
    for option, value in numbers.items():
        if value < 1:
            raise InputError(f"{option} {value}: expected at least 1")
    if request.last > request.evaluations:
        raise InputError(f"--last {request.last}: expected at most --evaluations, which is {request.evaluations}")


def scale_of(text: str) -> float:
    """The factor of --epochs-scale. Raises InputError unless it is a number above 0 or the name of one."""
    try:
        scale = SCALES.get(text) or float(text)
    except ValueError:
        scale = math.nan
    if not 0 < scale < math.inf:
        raise InputError(f"--epochs-scale {text}: expected a number above 0, or {', '.join(SCALES)}")
    return scale


def plan(request: Request, asked: Sequence[Row]) -> dict[str, list[Run]]:
    """Plan the runs of each row, by its name. A row that is not chosen and cannot be run is left out.

    Raises:
        InputError: if a chosen row cannot be run because of its config, its overrides, or the content of its folder.
    """
    report.check_folder(request)
    planned: dict[str, list[Run]] = {}
    with files_run_once():
        for row in request.table.rows:
            try:
                planned[row.name] = request.runs(row)
            except InputError:
                if row in asked:
                    raise
    for run in (run for row in asked for run in planned[row.name]):
        if different := run.differences():
            raise InputError(
                f"{run.folder}: holds a run with other settings: {some(different)}; ask for the same, choose another "
                "--output, or remove that folder"
            )
    return planned


def run_all(request: Request, planned: report.Planned, runs: Sequence[Run]) -> int:
    """Run what is not finished and write the report after each run; returns the signal that stopped us, or 0.

    Raises:
        InputError: unless the dataset has both annotation files of COCO's layout.
    """
    names = () if request.data == "own" else ANNOTATIONS  # the training finds the files of one's own data
    if missing := [name for name in names if not (request.root / name).is_file()]:
        raise InputError(f"--root {request.root}: has no {', '.join(missing)}; expected a dataset in COCO's layout")
    for number, run in enumerate(runs, start=1):
        name = f"[{number}/{len(runs)}] {run.row.name}, seed {run.seed}"
        if run.is_finished():
            print(f"{name}: finished, skipped", flush=True)
            continue
        print(f"{name}: {'continuing' if run.is_begun() else 'starting'} in {run.folder}", flush=True)
        try:
            ended = start(run, request.gpus)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            continue
        report.write(request, planned)
        if ended.signal:
            return ended.signal
    return 0


def start(run: Run, gpus: int) -> Ended:
    """Start or continue a run and record how it ended. Raises InputError if another process uses its folder."""
    arguments = run.command(gpus)
    with held(run.folder, name=LOCK) as lock:
        device = device_name(run.settings["train.device"], gpus)
        run.note_start(command=arguments, commit=commit_name(), device=device)
        ended = run_child(arguments, lock)
    if ended.status and not ended.signal:
        run.note(error=ended.error)
    return ended


def conclude(request: Request, planned: report.Planned, asked: Sequence[Row], *, stopped: int, again: str) -> int:
    """Write and print the report; returns the exit status."""
    reports = report.write(request, planned)
    console = Console()
    console.width = console.width if console.is_terminal else 200
    console.print(Markdown(report.table(reports, request)))
    print(f"written to {request.folder / 'report.md'} and report.json")
    if stopped:
        print(f"stopped; continue with: {again}", file=sys.stderr)
        return 128 + stopped
    failed = [found for found in reports if found.row in asked and found.missing]
    for found in failed:
        print(f"error: {found.row.name}: {found.missing}", file=sys.stderr)
    return 1 if failed else 0
