"""Takes over finished runs that were made elsewhere."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from crossstage.checkpoints.load import some
from crossstage.errors import InputError
from crossstage.reproduction.runs import Request, Run


def merge(folder: Path, request: Request) -> None:
    """Copy the finished runs of another OUTPUT/DATA folder to where this request would make them, and tell which.

    A run that is begun here stays. The data may lie at another path there: whether they are the same is for the user to
    know, and run.json keeps the folder that a run came from. Initial weights are compared, if they are here too.

    Args:
        folder: holds ROW/seedK.
        request: what is wanted.

    Raises:
        InputError: if there is no finished run, or if one has other settings.
    """
    found = 0
    # Trainings come before the evaluations of their weights, whose times are compared with those of the weights.
    wanted = [run for row in request.table.rows for run in request.runs(row)]
    for run in sorted(wanted, key=lambda run: run.weights is not None):
        there = replace(run, folder=folder / run.row.name / run.folder.name)
        if run.weights is not None:
            there = replace(there, weights=folder / run.row.trained_as / run.folder.name / run.weights.name)
        if not there.is_finished():
            continue
        found += 1
        if run.is_begun():
            print(f"{there.folder}: not copied, because {run.folder} holds this run")
            continue
        _copy(there, run)
    if not found:
        raise InputError(f"--merge {folder}: has no finished run of this table; expected folders ROW/seedK")


def _copy(there: Run, here: Run) -> None:
    """Copy a run's folder. Raises InputError if its settings are not those of the run that is wanted here."""
    if different := there.differences(paths=False):
        raise InputError(f"--merge {there.folder}: holds a run with other settings: {some(different)}")
    shutil.copytree(there.folder, here.folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.lock", "events.*"))
    here.note(settings=here.settings, merged_from=str(there.folder))
    print(f"{here.folder}: copied from {there.folder}")
