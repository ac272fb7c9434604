"""A run: the command of one row and one seed, its folder, and its state in this folder. Read `Request` first."""

from __future__ import annotations

import copy
import json
import math
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from crossstage.checkpoints.load import some
from crossstage.checkpoints.save import POINTER
from crossstage.config import LazyConfig, yaml_form
from crossstage.engine.metrics import MetricsFile
from crossstage.engine.setup import check_values, load_config
from crossstage.errors import InputError
from crossstage.files import strict_json, write_text
from crossstage.reproduction.rows import Row, length
from crossstage.reproduction.tables import rows_of

TRAINER = ("-m", "crossstage", "train")
FINAL = "model_final.pth"


@dataclass(frozen=True)
class Request:
    """The command line without the choice of rows.

    Attributes:
        table: name of the table.
        data: "toy" (generated images) or "coco".
        root: folder of the data.
        output: folder for runs and reports.
        scale: a factor on all iterations.
        seeds: number of runs per row, with seeds 0 to seeds - 1.
        gpus: processes per run.
        overrides: key=value for every run.
    """

    table: str
    data: str
    root: Path
    output: Path
    scale: float = 1.0
    seeds: int = 1
    gpus: int = 1
    overrides: tuple[str, ...] = ()

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows of the table."""
        return rows_of(self.table)

    @property
    def is_generated(self) -> bool:
        """Whether the data set is generated if it is missing."""
        return self.data == "toy"

    @property
    def folder(self) -> Path:
        """The folder of all runs and reports."""
        return self.output / self.data

    def runs(self, row: Row) -> list[Run]:
        """One run per seed. Raises InputError if the row's config does not load or an override does not fit."""
        config, changes = row.config_for(self.data), row.overrides_for(self.data)
        times = length(row, self.rows) if self.is_generated else 1.0
        iterations = max(1, round(_changed(config, changes).train.max_iter * times * self.scale))
        changes += (
            f"dataloader.root={self.root}",
            f"train.max_iter={iterations}",
            "train.eval_period=0",
            f"train.checkpointer.period={200 if self.is_generated else 2500}",
            "train.checkpointer.max_to_keep=2",
            *self.overrides,
        )
        check_values(_changed(config, changes).train)
        runs = []
        for seed in range(self.seeds):
            # If several overrides have the same key, the last one is used.
            by_key = {text.partition("=")[0]: text for text in (*changes, f"train.seed={seed}")}
            runs.append(Run(row, seed, config, tuple(by_key.values()), self.folder / row.name / f"seed{seed}"))
        return runs


@dataclass(frozen=True)
class Run:
    """A row with a seed. `overrides` are all overrides of its config except train.output_dir, which is `folder`."""

    row: Row
    seed: int
    config: str
    overrides: tuple[str, ...]
    folder: Path

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Everything that determines the run's results: all values of its config, but not the number of GPUs."""
        values = yaml_form.encode(_changed(self.config, self.overrides))[0]
        settings = {"--config-file": self.config, **_flat(values)}
        settings["dataloader.root"] = os.path.abspath(settings["dataloader.root"])
        del settings["train.output_dir"]
        return settings

    @property
    def iterations(self) -> int:
        """The number of iterations of the training."""
        return int(self.settings["train.max_iter"])

    def command(self, gpus: int) -> list[str]:
        """The command without the interpreter. It starts or continues the run: --resume needs no checkpoint."""
        many = ["--num-gpus", str(gpus)] if gpus > 1 else []
        changes = [*self.overrides, f"train.output_dir={self.folder}"]
        return [*TRAINER, "--config-file", self.config, "--resume", *many, *changes]

    def record(self) -> dict[str, Any]:
        """The content of run.json, or an empty record. Raises InputError if the file cannot be read."""
        path = self.folder / "run.json"
        return _read(path) if path.is_file() else {"settings": {}, "starts": [], "error": ""}

    def is_begun(self) -> bool:
        """Whether there is a checkpoint to continue from, or a finished run."""
        return (self.folder / POINTER).is_file()

    def is_finished(self) -> bool:
        """Whether the trainer has written the results, which it writes last, after the final checkpoint."""
        return self.saved_iterations() == self.iterations and (self.folder / "results.json").is_file()

    def saved_iterations(self) -> int:
        """The number of iterations in the last checkpoint; 0 without a checkpoint."""
        name = (self.folder / POINTER).read_text(encoding="utf-8").strip() if self.is_begun() else ""
        if name == FINAL:
            return self.iterations
        number = name.removeprefix("model_").removesuffix(".pth")
        return int(number) + 1 if number.isdecimal() else 0

    def differences(self) -> list[str]:
        """The settings in which a begun run differs from this one, each as "key=old (asked: new)"."""
        if not self.is_begun():
            return []
        before, now = self.record()["settings"], self.settings
        if not before:
            return ["no run.json: another tool started it"]
        both = {key: (before.get(key, "unset"), now.get(key, "unset")) for key in sorted({*before, *now})}
        changed = [(key, old or repr(old), new or repr(new)) for key, (old, new) in both.items() if old != new]
        return [f"{key}={old} (asked: {new})" for key, old, new in changed]

    def check(self) -> None:
        """Raise InputError if the folder holds a run with other settings."""
        if different := self.differences():
            raise InputError(
                f"{self.folder}: holds a run with other settings: {some(different)}; ask for the same, choose "
                "another --output, or remove that folder"
            )

    def note_start(self, *, command: Sequence[str], commit: str, device: str) -> None:
        """Write the settings before the run starts or continues, with its time, commit and device."""
        here = {"time": time.strftime("%Y-%m-%d %H:%M:%S"), "commit": commit, "device": device}
        starts = [*(self.record()["starts"] if self.is_begun() else []), here]
        self._write({"settings": self.settings, "command": command_line(command), "starts": starts, "error": ""})

    def note_error(self, error: str) -> None:
        """Store the line with which the run ended."""
        self._write({**self.record(), "error": error})

    def scores(self) -> dict[str, float]:
        """AP and AP50 of a finished run, in percent. Raises InputError if one of them is not a number."""
        path = self.folder / "results.json"
        results = _read(path).get("bbox", {})
        found = {name: results.get(name) for name in ("AP", "AP50")}
        bad = [name for name, value in found.items() if not isinstance(value, int | float) or not math.isfinite(value)]
        if bad:
            names = ", ".join(bad)
            raise InputError(f"{path}: {names} of bbox is not a number; does the dataset have objects to evaluate on?")
        return found

    def training_seconds(self) -> float:
        """Time of optimizer steps and of waiting for data, over all starts: logged medians times iterations."""
        seconds, before = 0.0, -1
        for row in MetricsFile(self.folder / "metrics.json").read():
            if "time" in row:
                seconds += row["time"] * (row["iteration"] - before)
                before = row["iteration"]
        return seconds

    def _write(self, record: Mapping[str, Any]) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self.folder / "run.json", strict_json(record, indent=2) + "\n")
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be written ({error.strerror}); choose another --output") from error


def command_line(arguments: Sequence[str]) -> str:
    """The shell command that runs this Python interpreter with `arguments`."""
    python, here = Path(sys.executable), Path.cwd()
    return shlex.join([str(python.relative_to(here) if python.is_relative_to(here) else python), *arguments])


@cache
def _loaded(config: str) -> DictConfig:
    """A config without overrides. The result is cached and must not be changed."""
    return load_config(config, ())


def _changed(config: str, overrides: Sequence[str]) -> DictConfig:
    return LazyConfig.apply_overrides(copy.deepcopy(_loaded(config)), overrides)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping with dotted keys."""
    leaves: dict[str, Any] = {}
    for key, value in values.items():
        leaves |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return leaves


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("not an object")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); remove {path.parent} to run it again") from error
    return content
