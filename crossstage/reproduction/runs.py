"""A run: the command of one row and one seed, its folder, and what the folder says of it. Read `Request` first."""

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
from crossstage.files import write_text
from crossstage.reproduction.data import Data
from crossstage.reproduction.rows import Row, length
from crossstage.reproduction.tables import rows_of

CHECKOUT = Path(__file__).resolve().parents[2]
TOOL = "tools/lazyconfig_train_net.py"
RECORD = "run.json"
FINAL = "model_final.pth"


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line, but for the choice of rows. overrides: key=value for every run."""

    table: str
    data: Data
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
    def folder(self) -> Path:
        """Where the runs of all rows and the reports lie."""
        return self.output / self.data.name

    def runs(self, row: Row) -> list[Run]:
        """One run a seed. Raises InputError if the row's config does not load or does not take the overrides."""
        config = row.config_for(self.data.name)
        changes = row.overrides_for(self.data.name)
        cfg = LazyConfig.apply_overrides(copy.deepcopy(_loaded(CHECKOUT / config)), changes)
        times = length(row, self.rows) if self.data.is_generated else 1.0
        iterations = max(1, round(cfg.train.max_iter * times * self.scale))
        own = [
            f"dataloader.root={self.root}",
            f"train.max_iter={iterations}",
            "train.eval_period=0",
            f"train.checkpointer.period={self.data.checkpoint_period}",
            "train.checkpointer.max_to_keep=2",
        ]
        folder = self.folder / row.name
        LazyConfig.apply_overrides(cfg, [*own, *self.overrides, f"train.output_dir={folder}"])
        check_values(cfg.train)
        changes = (*changes, *own, *self.overrides)
        return [
            Run(
                row,
                seed,
                config,
                last_of_each([*changes, f"train.seed={seed}"]),
                folder / f"seed{seed}",
                cfg.train.device,
            )
            for seed in range(self.seeds)
        ]


@dataclass(frozen=True)
class Run:
    """A row with a seed. config: below the checkout.  overrides: all but train.output_dir, which is `folder`.

    device: its train.device.
    """

    row: Row
    seed: int
    config: str
    overrides: tuple[str, ...]
    folder: Path
    device: str

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What decides the run's numbers: all values of its config, whoever set them. Not the number of GPUs."""
        cfg = LazyConfig.apply_overrides(copy.deepcopy(_loaded(CHECKOUT / self.config)), self.overrides)
        settings = {"--config-file": self.config, **flat(yaml_form.encode(cfg)[0])}
        settings["dataloader.root"] = os.path.abspath(settings["dataloader.root"])
        del settings["train.output_dir"]
        return settings

    def command(self, gpus: int) -> list[str]:
        """Without the interpreter. It starts a run as well as goes on with it: --resume needs no checkpoint."""
        many = ["--num-gpus", str(gpus)] if gpus > 1 else []
        config = shown_path(CHECKOUT / self.config)
        changes = [*self.overrides, f"train.output_dir={self.folder}"]
        return [shown_path(CHECKOUT / TOOL), "--config-file", config, "--resume", *many, *changes]

    def record(self) -> dict[str, Any]:
        """run.json, or an empty one. Raises InputError if it cannot be read."""
        path = self.folder / RECORD
        return _read(path) if path.is_file() else {"settings": {}, "starts": [], "error": ""}

    def is_finished(self) -> bool:
        """Whether the trainer has written what it writes last: the results, after the final checkpoint."""
        return self.saved_iterations() == self.iterations and (self.folder / "results.json").is_file()

    def is_begun(self) -> bool:
        """Whether there is a checkpoint to go on from, or a finished run."""
        return (self.folder / POINTER).is_file()

    def differences(self) -> list[str]:
        """Settings of a begun run that are not those asked for, each as "key=old (asked: new)"."""
        if not self.is_begun():
            return []
        before, now = self.record()["settings"], self.settings
        if not before:
            return [f"no {RECORD}: another tool started it"]
        return [
            f"{key}={_shown(before, key)} (asked: {_shown(now, key)})"
            for key in sorted(before.keys() | now.keys())
            if (key in before, before.get(key)) != (key in now, now.get(key))
        ]

    def check(self) -> None:
        """Raise InputError if the folder holds a run with other settings."""
        if different := self.differences():
            raise InputError(
                f"{self.folder}: holds a run with other settings: {some(different)}; ask for the same, choose "
                "another --output, or remove that folder"
            )

    def note_start(self, *, command: Sequence[str], commit: str, device: str) -> None:
        """Write the settings before the run begins, and where it began or went on."""
        record = self.record()
        starts = record["starts"] if self.is_begun() else []
        here = {"time": time.strftime("%Y-%m-%d %H:%M:%S"), "commit": commit, "device": device}
        self.write(
            {"settings": self.settings, "command": command_line(command), "starts": [*starts, here], "error": ""}
        )

    def note_error(self, error: str) -> None:
        """Add the line that the run ended with."""
        self.write({**self.record(), "error": error})

    def write(self, record: Mapping[str, Any]) -> None:
        """Replace run.json. Raises InputError if that is not possible."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self.folder / RECORD, json.dumps(record, indent=2) + "\n")
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be written ({error.strerror}); choose another --output") from error

    def scores(self) -> dict[str, float]:
        """AP and AP50 of a finished run, in percent. Raises InputError if results.json has none that is a number."""
        path = self.folder / "results.json"
        results = _read(path).get("bbox", {})
        found = {name: results.get(name) for name in ("AP", "AP50")}
        bad = [name for name, value in found.items() if not isinstance(value, int | float) or not math.isfinite(value)]
        if bad:
            raise InputError(f"{path}: {', '.join(bad)} of bbox is no number; has the dataset objects to evaluate on?")
        return found

    @property
    def iterations(self) -> int:
        """How many it trains for."""
        return int(self.settings["train.max_iter"])

    def saved_iterations(self) -> int:
        """How many are in the last checkpoint; 0 without any."""
        pointer = self.folder / POINTER
        name = pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else ""
        if name == FINAL:
            return self.iterations
        number = name.removeprefix("model_").removesuffix(".pth")
        return int(number) + 1 if number.isdecimal() else 0

    def training_seconds(self) -> float:
        """Time in optimizer steps and waiting for data, over all starts: logged medians times iterations."""
        seconds, before = 0.0, -1
        for row in self._training_rows():
            seconds += row["time"] * (row["iteration"] - before)
            before = row["iteration"]
        return seconds

    def _training_rows(self) -> list[dict[str, Any]]:
        return [row for row in MetricsFile(self.folder / "metrics.json").read() if "time" in row]


@cache
def _loaded(config: Path) -> DictConfig:
    """A config as its file has it; not to be changed."""
    return load_config(shown_path(config), ())


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, by dotted keys."""
    leaves = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            leaves.update(flat(value, f"{prefix}{key}."))
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def _shown(settings: Mapping[str, Any], key: str) -> Any:
    return settings.get(key, "unset") if settings.get(key) != "" else "''"


def last_of_each(overrides: Sequence[str]) -> tuple[str, ...]:
    """The overrides in their order, of those with the same key only the last."""
    return tuple({text.partition("=")[0]: text for text in overrides}.values())


def shown_path(path: Path) -> str:
    """Relative to the working directory where it lies below it, else absolute: what a person would type."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def command_line(arguments: Sequence[str]) -> str:
    """This Python with `arguments`, to be pasted into a shell."""
    return shlex.join([shown_path(Path(sys.executable)), *arguments])


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); remove {path.parent} to run it anew") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected an object; remove {path.parent} to run it anew")
    return content
