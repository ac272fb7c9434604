"""What runs need before the first one starts: the generated set, and the backbone of a question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crossstage.errors import InputError
from crossstage.reproduction.process import run_child
from crossstage.reproduction.questions import GENERATED as QUESTION_DATA
from crossstage.reproduction.questions import question_of
from crossstage.reproduction.runs import Request, Run

GENERATED = ("--train", "1200", "--val", "200", "--seed", "0", "--preset", "easy")


@dataclass(frozen=True)
class Preparation:
    """A file or a folder that runs need: what its command does, the target as a message names it, the command."""

    task: str
    target: str
    command: list[str]


def preparations(request: Request, question: str | None, runs: Sequence[Run]) -> list[Preparation]:
    """What the runs need and is not there: the generated set, and the backbone of a question."""
    found = []
    if request.data == "toy" and not request.has_data:
        settings = QUESTION_DATA if question else GENERATED
        command = ["-m", "crossstage.data.toy", "--output", str(request.root), *settings]
        found.append(Preparation("writing the generated dataset", f"--root {request.root}", command))
    if not question:
        return found
    file = question_of(question).backbone_file
    starts = {run.settings["train.init_checkpoint"] for run in runs if not run.is_finished()}
    if file is not None and not file.exists() and str(file.absolute()) in starts:
        config = question_of(question).backbone
        command = ["-m", "crossstage.reproduction.pretraining", "--config-file", config, "--output", str(file)]
        found.append(Preparation("training a backbone, from which all runs start,", str(file), command))
    return found


def prepare(missing: Sequence[Preparation]) -> int:
    """Make what is missing; returns the signal that stopped it, or 0. Raises InputError for what cannot be made."""
    for step in missing:
        print(f"{step.task} into {step.target.removeprefix('--root ')}", flush=True)
        ended = run_child(step.command)
        if ended.signal:
            return ended.signal
        if ended.status:
            raise InputError(f"{step.target}: could not be written: {ended.error}")
    return 0
