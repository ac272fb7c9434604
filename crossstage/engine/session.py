"""The environment of a run (`Session`), its parts (`Parts`), and the scores of its model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from omegaconf import DictConfig
from torch import nn

from crossstage.engine.log import RunLog
from crossstage.evaluation import run_evaluation
from crossstage.files import write_text
from crossstage.processes import Processes

Results = dict[str, dict[str, float]]  # task ("bbox") -> score name -> percent


@dataclass(frozen=True)
class Session:
    """The environment of a run: config, devices (`fabric`), processes, output folder and log."""

    cfg: DictConfig
    fabric: Fabric
    processes: Processes
    output_dir: Path
    log: RunLog


@dataclass(frozen=True)
class Parts:
    """The parts that the config describes: what is trained and evaluated, and with which data."""

    model: nn.Module
    train_loader: Any
    test_loader: Any
    evaluator: Any

    @property
    def loaders(self) -> list[Any]:
        """The loaders that exist (train, test)."""
        return [loader for loader in (self.train_loader, self.test_loader) if loader is not None]


def score(session: Session, parts: Parts) -> Results:
    """Evaluate the model in the precision of the run; the state of the model stays unchanged (`run_evaluation`)."""
    with session.fabric.autocast():
        return run_evaluation(
            parts.model,
            parts.test_loader,
            parts.evaluator,
            device=session.fabric.device,
            console=session.log.console,
            processes=session.processes,
        )


def save_results(results: Results, folder: Path) -> None:
    """Write results.json."""
    write_text(folder / "results.json", json.dumps(results, indent=2) + "\n")


def flat(results: Results) -> dict[str, float]:
    """Turn {"bbox": {"AP": x}} into {"bbox/AP": x}."""
    return {f"{task}/{name}": value for task, scores in results.items() for name, value in scores.items()}
