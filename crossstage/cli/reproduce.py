"""Run the rows of a paper's table one after another and report them beside its figures; `--help` has examples.

`main(arguments)` does the same from Python.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from crossstage.errors import InputError
from crossstage.reproduction import report
from crossstage.reproduction.data import DATA, check_root, generation, is_absent
from crossstage.reproduction.process import Ended, held, run_child
from crossstage.reproduction.report import Planned
from crossstage.reproduction.rows import Row, chosen
from crossstage.reproduction.runs import CHECKOUT, Request, Run, command_line, shown_path
from crossstage.reproduction.tables import TABLES, rows_of

SCALES = {"small": 0.4}  # all rows of Table 4 in less than an hour on two CPU cores

EXAMPLES = f"""examples:
  what it would run, a command a line:
    %(prog)s --table 4 --dry-run
  all rows at a small scale on generated images, on a laptop; the set is written if it is not there:
    %(prog)s --table 4 --data toy --epochs-scale small
  three seeds of two rows (shell patterns are allowed), each seed of all rows before the next:
    %(prog)s --table 4 --rows dino_12ep 'dino_12ep_c*' --seeds 3
  the paper's recipe on COCO with 8 GPUs:
    %(prog)s --table 5 --data coco --root /path/to/coco --num-gpus 8
  any value of the configs, in every run:
    %(prog)s --table 4 --epochs-scale 0.1 train.device=cpu dataloader.train.num_workers=0

iterations:
  toy: train.max_iter of the row's toy config x the row's epochs / the fewest epochs of its project's rows in
  the table x --epochs-scale (so DINO's rows of 24 epochs train twice as long as those of 12, and Deformable-DETR's of
  50, which has no shorter row, as long as its config says).  coco: the full config's x --epochs-scale.
  --epochs-scale small is {SCALES["small"]:g}. Schedules stretch with the number of iterations.

A run lies in OUTPUT/DATA/ROW/seedK; OUTPUT/DATA/report.md and report.json are written after each. The same command
again skips what is finished and resumes what was interrupted; a run with other settings is refused. Ctrl-C lets the
training save, then stops; a second one stops at once. A row that fails is reported and the others go on.
Exit status: 0, 1 if a row failed, 2 for a mistake in the input, 128 + signal when stopped.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit status."""
    parser = argument_parser()
    args = parser.parse_intermixed_args(arguments)
    again = [shown_path(Path(__file__).resolve()), *(sys.argv[1:] if arguments is None else arguments)]
    try:
        request, asked = request_of(args)
        planned = plan(request, asked)
        # each seed of all rows before the next
        runs = [run for of_seed in zip(*(planned[row.name] for row in asked), strict=True) for run in of_seed]
        if args.dry_run:
            return dry_run(request, runs)
        check_dataset(request)
        return reproduce(request, planned, runs, again=command_line(again))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted; go on with: {command_line(again)}", file=sys.stderr)
        return 130


def argument_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Run the rows of a paper's table one after another and report them beside its figures.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--table", required=True, metavar="T", help=f"one of {', '.join(TABLES)} (StageInteractor's)")
    parser.add_argument("--rows", nargs="+", default=[], metavar="NAME", help="only these rows (default: all)")
    parser.add_argument("--data", choices=sorted(DATA), default="toy", help="generated images (default), or COCO")
    parser.add_argument(
        "--epochs-scale", default="1", metavar="X", help="a factor of all iterations, or small (default: 1)"
    )
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="runs of a row: seeds 0 to N-1 (default: 1)")
    roots = ", ".join(data.root for data in DATA.values())
    parser.add_argument("--root", metavar="DIR", help=f"the dataset, in COCO's layout (default: {roots})")
    parser.add_argument("--output", metavar="DIR", help="where runs and reports go (default: output/tableT)")
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help="processes a run, on the CPU too")
    parser.add_argument("--dry-run", action="store_true", help="check everything and print the commands, run nothing")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="changes to the config of every run")
    return parser


def request_of(args: argparse.Namespace) -> tuple[Request, tuple[Row, ...]]:
    """The request and the rows that were asked for. Raises InputError for a row or a number that cannot be."""
    rows = rows_of(args.table)
    # argparse gives --rows what follows it, changes to the config included
    overrides = [*(name for name in args.rows if "=" in name), *args.opts]
    if stray := [text for text in args.opts if "=" not in text and not text.startswith("~")]:
        raise InputError(f"{stray[0]}: expected key=value; rows are named by --rows {stray[0]}")
    asked = chosen(rows, [name for name in args.rows if "=" not in name])
    for option, value in (("--seeds", args.seeds), ("--num-gpus", args.num_gpus)):
        if value < 1:
            raise InputError(f"{option} {value}: expected at least 1")
    for text in overrides:
        if text.lstrip("+~").startswith(("train.output_dir", "dataloader.root", "train.seed")):
            raise InputError(f"{text}: given by --output, --root and --seeds here")
    data = DATA[args.data]
    root, output = (
        Path(args.root or data.root).expanduser(),
        Path(args.output or f"output/table{args.table}").expanduser(),
    )
    scale = scale_of(args.epochs_scale)
    return Request(args.table, data, root, output, scale, args.seeds, args.num_gpus, tuple(overrides)), asked


def plan(request: Request, asked: Sequence[Row]) -> dict[str, list[Run]]:
    """The runs of all rows by the row's name; a row that was not asked for and cannot be run has none.

    Raises InputError for what would stop a run that was asked for: its config, its overrides, what its folder holds.
    """
    report.check_folder(request)
    planned: dict[str, list[Run]] = {}
    for row in request.rows:
        try:
            planned[row.name] = request.runs(row)
        except InputError:
            if row in asked:
                raise
    for row in asked:
        for run in planned[row.name]:
            run.check()
    return planned


def check_dataset(request: Request) -> None:
    """Raise InputError if there is no dataset and we do not write it, or no complete one."""
    if not (request.data.is_generated and is_absent(request.root)):
        check_root(request.root)


def scale_of(text: str) -> float:
    """--epochs-scale as a number. Raises InputError unless it is a name or finite and above 0."""
    try:
        scale = SCALES.get(text) or float(text)
    except ValueError:
        scale = math.nan
    if not 0 < scale < math.inf:
        raise InputError(f"--epochs-scale {text}: expected a number above 0, or {', '.join(SCALES)}")
    return scale


def dry_run(request: Request, runs: Sequence[Run]) -> int:
    """Print the commands; those that would not be run as comments. Returns the exit status."""
    if request.data.is_generated and is_absent(request.root):
        print(command_line(generation(request.root)))
    elif is_absent(request.root):
        print(f"note: there is no dataset at {request.root}", file=sys.stderr)
    for run in runs:
        print(("# finished: " if run.is_finished() else "") + command_line(run.command(request.gpus)))
    return 0


def reproduce(request: Request, planned: Planned, runs: Sequence[Run], *, again: str) -> int:
    """Run what is not finished, report after each; `again`: the command that goes on. Returns the exit status."""
    stopped = write_dataset(request)
    for number, run in enumerate(runs, start=1):
        if stopped:
            break
        name = f"[{number}/{len(runs)}] {run.row.name}, seed {run.seed}"
        if run.is_finished():
            print(f"{name}: finished, skipped", flush=True)
            continue
        print(f"{name}: {'going on' if run.is_begun() else 'starting'} in {run.folder}", flush=True)
        try:
            ended = train(run, request.gpus)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            continue
        report.write(request, planned)
        stopped = ended.signal
    reports = report.write(request, planned)
    console = Console()
    console.width = console.width if console.is_terminal else 200
    console.print(report.rich_table(reports, request))
    print(f"written to {request.folder / 'report.md'} and report.json")
    if stopped:
        print(f"stopped; go on with: {again}", file=sys.stderr)
        return 128 + stopped
    asked = {run.row.name for run in runs}
    failed = [found for found in reports if found.row.name in asked and found.states]
    for found in failed:
        print(f"error: {found.row.name}: {found.states}", file=sys.stderr)
    return 1 if failed else 0


def write_dataset(request: Request) -> int:
    """Generate the dataset if it is absent; returns the signal that stopped that, else 0. Raises InputError."""
    if not is_absent(request.root):
        return 0
    print(f"writing the generated dataset into {request.root}", flush=True)
    ended = run_child(generation(request.root))
    if ended.status and not ended.signal:
        raise InputError(f"--root {request.root}: could not be written: {ended.error}")
    if not ended.signal:
        check_root(request.root)
    return ended.signal


def train(run: Run, gpus: int) -> Ended:
    """Start a run or go on with it, and note how it ended. Raises InputError if another process has its folder."""
    arguments = run.command(gpus)
    with held(run.folder) as lock:
        run.note_start(command=arguments, commit=commit_name(), device=device_name(run.device, gpus))
        ended = run_child(arguments, lock)
    if ended.status and not ended.signal:
        run.note_error(ended.error)
    return ended


def commit_name() -> str:
    """The checkout's commit, "+changes" if its files differ from it; "unknown" without git."""
    try:
        git = ["git", "-C", str(CHECKOUT)]
        commit, changes = (
            subprocess.run([*git, *arguments], capture_output=True, text=True, check=True).stdout.strip()
            for arguments in (("rev-parse", "--short=12", "HEAD"), ("status", "--porcelain"))
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+changes" if changes else "")


def device_name(device: str, gpus: int) -> str:
    """What a run with train.device=`device` trains on, in words."""
    import torch

    if device == "cuda" and torch.cuda.is_available():
        return f"{gpus} x {torch.cuda.get_device_name(0)}"
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    return f"CPU: {(models or [platform.machine()])[0]}, {os.cpu_count()} cores, OMP_NUM_THREADS {threads}"
