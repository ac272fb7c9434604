"""A run: the command of one row and one seed, its folder, and its state in this folder. Read `Request` first."""

from __future__ import annotations

import copy
import json
import math
import os
import shlex
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from crossstage.checkpoints.save import POINTER
from crossstage.config import LazyConfig, yaml_form
from crossstage.engine.metrics import MetricsFile
from crossstage.engine.setup import check_values, load_config
from crossstage.errors import InputError
from crossstage.files import digest, strict_json, write_text
from crossstage.reproduction.rows import Row, Table

PROGRAM = ("-m", "crossstage")
FINAL, RESULTS = "model_final.pth", "results.json"
SCORES = ("AP", "AP50")
LOCAL_PATHS = ("dataloader.root", "dataloader.data", "train.init_checkpoint")


@dataclass(frozen=True)
class Request:
    """The command line without the choice of rows.

    Attributes:
        table: the table.
        data: "toy" (generated images), "coco", or "own" (any folder that dataloader.data takes).
        root: folder of the data.
        output: folder for runs and reports.
        scale: a factor on all iterations.
        seeds: number of runs per row, with seeds 0 to seeds - 1.
        gpus: processes per run.
        overrides: key=value for every run.
        evaluations: number of evaluations of a training, evenly spread, the last one at its end.
        last: a run's score is the mean of so many of its last evaluations.
    """

    table: Table
    data: str
    root: Path
    output: Path
    scale: float = 1.0
    seeds: int = 1
    gpus: int = 1
    overrides: tuple[str, ...] = ()
    evaluations: int = 1
    last: int = 1

    @property
    def folder(self) -> Path:
        """The folder of all runs and reports."""
        return self.output / self.data

    @property
    def has_data(self) -> bool:
        """Whether `root` is a file or a folder that is not empty."""
        return (self.root.is_dir() and any(self.root.iterdir())) or self.root.is_file()

    def runs(self, row: Row) -> list[Run]:
        """One run per seed. Raises InputError if the row's config does not load or an override does not fit."""
        config, changes = row.config_for(self.data), row.overrides_for(self.data)
        times = 1.0 if self.data == "coco" else self.table.length(row)
        iterations = max(1, round(_changed(config, changes).train.max_iter * times * self.scale))
        data = f"dataloader.{'data' if self.data == 'own' else 'root'}={self.root}"
        changes += (data, f"train.max_iter={iterations}")
        train = _changed(config, (*changes, *self.overrides)).train
        check_values(train)
        changes += (
            f"train.eval_period={0 if self.evaluations == 1 else math.ceil(train.max_iter / self.evaluations)}",
            f"train.checkpointer.period={2500 if self.data == 'coco' else 200}",
            "train.checkpointer.max_to_keep=2",
            *self.overrides,
        )
        runs = []
        for seed in range(self.seeds):
            # If several overrides have the same key, the last one is used.
            by_key = {text.partition("=")[0]: text for text in (*changes, f"train.seed={seed}")}
            weights = self.folder / row.trained_as / f"seed{seed}" / FINAL if row.trained_as else None
            folder = self.folder / row.name / f"seed{seed}"
            runs.append(Run(row, seed, config, tuple(by_key.values()), folder, weights))
        return runs


@dataclass(frozen=True)
class Run:
    """A row with a seed: a training, or the evaluation of another run's `weights`.

    `overrides` are all overrides of its config except train.output_dir, which is `folder`.
    """

    row: Row
    seed: int
    config: str
    overrides: tuple[str, ...]
    folder: Path
    weights: Path | None = None

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Everything that determines the run's weights: all values of its config, but not the number of GPUs."""
        values = yaml_form.encode(_changed(self.config, self.overrides))[0]
        settings = {"--config-file": self.config, **_flat(values)}
        for key in LOCAL_PATHS:
            if isinstance(path := settings.get(key), str) and path and "://" not in path:
                settings[key] = os.path.abspath(path)
        del settings["train.output_dir"], settings["train.query_metrics.enabled"]
        return settings

    @property
    def iterations(self) -> int:
        """The number of iterations of the training."""
        return int(self.settings["train.max_iter"])

    def command(self, gpus: int) -> list[str]:
        """The command without the interpreter. It starts or continues the run: --resume needs no checkpoint."""
        how = ["train", "--resume"] if self.weights is None else ["evaluate", "--weights", str(self.weights)]
        many = ["--num-gpus", str(gpus)] if gpus > 1 else []
        changes = [*self.overrides, f"train.output_dir={self.folder}"]
        return [*PROGRAM, how[0], "--config-file", self.config, *how[1:], *many, *changes]

    def record(self) -> dict[str, Any]:
        """The content of run.json, or an empty record. Raises InputError if the file cannot be read."""
        path = self.folder / "run.json"
        return read_object(path) if path.is_file() else {"settings": {}, "starts": [], "error": ""}

    def is_begun(self) -> bool:
        """Whether there is a checkpoint to continue from, or a finished run."""
        return (self.folder / (POINTER if self.weights is None else RESULTS)).is_file()

    def is_finished(self) -> bool:
        """Whether the results are written, which is the last thing that happens, and are those of the last weights."""
        results = self.folder / RESULTS
        if not results.is_file() or self.weights is None:
            return results.is_file() and self.saved_iterations() == self.iterations
        return self.weights.is_file() and self.weights.stat().st_mtime <= results.stat().st_mtime

    def saved_iterations(self) -> int:
        """The number of iterations in the last checkpoint; 0 without a checkpoint."""
        pointer = self.folder / POINTER
        name = pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else ""
        if name == FINAL:
            return self.iterations
        number = name.removeprefix("model_").removesuffix(".pth")
        return int(number) + 1 if number.isdecimal() else 0

    @property
    def initial_weights(self) -> str:
        """The SHA-256 of train.init_checkpoint; "" for a run without one, and for a file that is not here."""
        path = Path(self.settings["train.init_checkpoint"] or "")
        return _digest(path, path.stat().st_mtime_ns) if path.is_file() else ""

    def differences(self, *, paths: bool = True) -> list[str]:
        """The settings in which a begun run differs from this one, each as "key=old (asked: new)".

        Args:
            paths: whether another path of the same file or folder is a difference.
        """
        if not self.is_begun():
            return []
        record = self.record()
        before, now = record["settings"], self.settings
        if not before:
            return ["no run.json: another tool started it"]
        both = {key: (before.get(key, "unset"), now.get(key, "unset")) for key in sorted({*before, *now})}
        if not paths:
            both = {key: pair for key, pair in both.items() if key not in LOCAL_PATHS or not all(pair)}
        if self.initial_weights and record.get("initial_weights"):
            both["SHA-256 of train.init_checkpoint"] = (record["initial_weights"][:12], self.initial_weights[:12])
        return [
            f"{key}={old or repr(old)} (asked: {new or repr(new)})" for key, (old, new) in both.items() if old != new
        ]

    def note_start(self, *, command: Sequence[str], commit: str, device: str) -> None:
        """Write the settings before the run starts or continues, with its time, commit and device."""
        here = {"time": time.strftime("%Y-%m-%d %H:%M:%S"), "commit": commit, "device": device}
        starts = [*(self.record()["starts"] if self.is_begun() else []), here]
        weights = self.initial_weights
        self.note(
            settings=self.settings, initial_weights=weights, command=command_line(command), starts=starts, error=""
        )

    def note(self, **entries: Any) -> None:
        """Store entries in run.json, such as the `error` with which the run ended."""
        record = {**self.record(), **entries}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self.folder / "run.json", strict_json(record, indent=2) + "\n")
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be written ({error.strerror}); choose another --output") from error

    def scores(self, *, last: int = 1) -> dict[str, float]:
        """AP and AP50 of a finished run, in percent; those of averaged weights if there are any.

        Args:
            last: the mean of so many of the last evaluations.

        Raises:
            InputError: if one of them is not a number, or if there are fewer evaluations.
        """
        results = read_object(path := self.folder / RESULTS)
        task = "ema_bbox" if "ema_bbox" in results else "bbox"
        if last == 1:
            found = {name: float(results.get(task, {}).get(name, math.nan)) for name in SCORES}
        else:
            evaluations = self.evaluations()[-last:]
            if len(evaluations) < last:
                raise InputError(f"{path.parent}: has {len(evaluations)} evaluations; expected --last {last} or more")
            found = {name: statistics.fmean(row[name] for row in evaluations) for name in SCORES}
        if bad := [name for name, value in found.items() if not math.isfinite(value)]:
            raise InputError(f"{path}: bbox has no {' and '.join(bad)}; does the dataset have objects to evaluate on?")
        return found

    def query_metrics(self) -> dict[str, float]:
        """What `train.query_metrics` counted at the end of a finished run; empty if it was not enabled."""
        found = read_object(self.folder / RESULTS).get("queries", {})
        return {name: float(value) for name, value in found.items() if value is not None}

    def evaluations(self) -> list[dict[str, float]]:
        """The `iteration`, AP and AP50 of each evaluation of a training, from metrics.json."""
        found = []
        for row in MetricsFile(self.folder / "metrics.json").read():
            task = "ema_bbox" if "ema_bbox/AP" in row else "bbox"
            if f"{task}/AP" in row:
                scores = {name: float(row.get(f"{task}/{name}", math.nan)) for name in SCORES}
                found.append({"iteration": row["iteration"], **scores})
        return found

    def training_seconds(self) -> float:
        """Time of optimizer steps and of waiting for data, over all starts: logged medians times iterations."""
        rows = [row for row in MetricsFile(self.folder / "metrics.json").read() if "time" in row]
        before = [-1, *(row["iteration"] for row in rows)]
        return sum(row["time"] * (row["iteration"] - start) for row, start in zip(rows, before, strict=False))


def command_line(arguments: Sequence[str]) -> str:
    """The shell command that runs this Python interpreter with `arguments`."""
    python, here = Path(sys.executable), Path.cwd()
    return shlex.join([str(python.relative_to(here) if python.is_relative_to(here) else python), *arguments])


@cache
def _loaded(config: str) -> DictConfig:
    """A config without overrides. The result is cached and must not be changed."""
    return load_config(config, ())


@cache
def _digest(path: Path, changed: int) -> str:
    """The SHA-256 of a file that was last changed at this time."""
    return digest(path)


def _changed(config: str, overrides: Sequence[str]) -> DictConfig:
    return LazyConfig.apply_overrides(copy.deepcopy(_loaded(config)), overrides)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping with dotted keys."""
    leaves: dict[str, Any] = {}
    for key, value in values.items():
        leaves |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return leaves


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises InputError if it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("not an object")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); remove {path.parent} to run it again") from error
    return content
