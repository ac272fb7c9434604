"""The environment of a run (`Session`), its parts (`Parts`), and the scores of its model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from omegaconf import DictConfig
from torch import nn

from crossstage.checkpoints.save import BEST
from crossstage.engine.acceleration import uncompiled
from crossstage.engine.log import RunLog
from crossstage.engine.provenance import commit_name, versions
from crossstage.evaluation import run_evaluation
from crossstage.evaluation.query_metrics import CountingDetector
from crossstage.files import strict_json, write_text
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
    """Evaluate the model in the precision of the run; the state of the model stays unchanged (`run_evaluation`).

    With train.query_metrics.enabled there is a further task, "queries". Raises InputError if the model has no queries.
    """
    counting = CountingDetector(parts.model) if session.cfg.train.query_metrics.enabled else None
    with session.fabric.autocast(), uncompiled(session.cfg.train):
        results = run_evaluation(
            parts.model if counting is None else counting,
            parts.test_loader,
            parts.evaluator,
            device=session.fabric.device,
            console=session.log.console,
            processes=session.processes,
        )
    if counting is None:
        return results
    first, *others = session.processes.gather(counting.counts)
    return {**results, "queries": first.joined(others).scores()}


def save_results(results: Results, session: Session, parts: Parts, *, weights: str) -> None:
    """Write results.json: the scores by task, and under "about" where they come from.

    Args:
        results: the scores.
        session: the environment of the run, with the output folder.
        parts: with the data that were evaluated.
        weights: the file of the weights.
    """
    content = {**results, "about": origin(parts, weights=weights)}
    write_text(session.output_dir / "results.json", strict_json(content, indent=2) + "\n")


def origin(parts: Parts, *, weights: str) -> dict[str, Any]:
    """Where scores come from: the weights, the data, the commit and the versions."""
    dataset: Any = getattr(parts.test_loader, "dataset", None)
    images = len(dataset) if hasattr(dataset, "__len__") else None
    data = {"json_file": str(getattr(dataset, "json_file", "unknown")), "images": images}
    return {"weights": weights, "data": data, "commit": commit_name(), "versions": versions()}


def flat(results: Results) -> dict[str, float]:
    """Turn {"bbox": {"AP": x}} into {"bbox/AP": x}."""
    return {f"{task}/{name}": value for task, scores in results.items() for name, value in scores.items()}


def closing_words(session: Session, results: Results) -> str:
    """The last lines of the log: AP, AP50, and where the files of the run are."""
    folder = session.output_dir
    lines = ["done"]
    for task, scores in results.items():
        if main := [f"{name} {scores[name]:.2f}" for name in ("AP", "AP50") if name in scores]:
            lines.append(f"  {task:<9} {'  '.join(main)}")
    lines += [
        f"  weights   {folder / 'model_final.pth'}",
        *([f"  best      {best}"] if (best := folder / BEST).is_file() else []),
        f"  curves    {folder / 'curves.png'}",
        f"  numbers   {folder / 'metrics.json'}, {folder / 'results.json'}; tensorboard --logdir {folder}",
        f"  pictures  python -m crossstage predict --config-file {folder / 'config.yaml'} --weights "
        f"{folder / 'model_final.pth'} --input 'FOLDER/*.jpg' --output {folder / 'pictures'}",
    ]
    return "\n".join(lines)
