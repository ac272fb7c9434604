"""Writes a model as a folder for others: weights as safetensors, a config of the restricted form, a model card."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from safetensors import SafetensorError

from crossstage.checkpoints.load import read_checkpoint
from crossstage.checkpoints.tensor_file import write_tensors
from crossstage.config import LazyConfig, yaml_form
from crossstage.errors import InputError
from crossstage.files import replacing, write_text
from crossstage.inference.classes import settle_classes
from crossstage.inference.model_card import model_card
from crossstage.inference.predictor import Predictor, build_predictor, choose_device
from crossstage.inference.run_files import CONFIG, PUBLISHED, RunFiles, config_name, find_run_files
from crossstage.inference.safe_config import check_restricted

CARD = "README.md"
FILES = (CONFIG, PUBLISHED, CARD)


@dataclass(frozen=True)
class Origin:
    """Where a published model is from, for its card.

    Attributes:
        name: the config's short name, or the name of the run's folder.
        weights: the name of the file of the weights.
        best: the score for which these weights were kept ({"metric", "score", "iteration"}), or empty.
        results: the run's results.json, or empty.
    """

    name: str
    weights: str
    best: dict[str, Any]
    results: dict[str, Any]


def write_publication(
    source: str | Path, folder: Path, *, repo: str, weights: str | Path | None = None, license: str | None = None
) -> None:
    """Write model.safetensors, config.yaml and README.md.

    Args:
        source: as for `crossstage.load`.
        folder: an existing folder.
        repo: the name under which others will load the model, for the example in the card.
        weights: as for `crossstage.load`.
        license: the identifier of a licence ("apache-2.0"); None leaves the field to be filled in.

    Raises:
        InputError: if a file is missing, the weights do not fit, the model has parts that are not in this library, or
            a file cannot be written.
    """
    files = find_run_files(source, weights)
    cfg = LazyConfig.load(files.config)
    truth = settle_classes(cfg, files.weights, asked=(), problems=[])
    predictor = build_predictor(cfg, files.weights, source=files.config, truth=truth, device=choose_device("cpu"))
    published = published_config(cfg)
    check_restricted(published, files.config)
    card = model_card(predictor, _origin(files, cfg), repo=repo, license=license)
    try:
        write_text(folder / CONFIG, yaml_form.dump(published))
        write_text(folder / CARD, card)
        _write_weights(predictor, folder / PUBLISHED)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{folder}: cannot be written ({str(error).splitlines()[0]}); choose another folder"
        ) from error


def published_config(cfg: DictConfig) -> dict[str, Any]:
    """What a predictor needs of a config, as plain YAML values without interpolations.

    Raises InputError for a value without a YAML form.
    """
    if "pretrained" in (OmegaConf.select(cfg, "model.backbone") or {}):
        cfg.model.backbone.pretrained = False
    test = cfg.dataloader.test
    with open_dict(test):
        test.size_divisor = test.get("size_divisor", 1)
    parts = {"model": cfg.model, "transform": test.transform, "size_divisor": test.size_divisor}
    encoded = {name: yaml_form.encode(part, resolve=True) for name, part in parts.items()}
    if lost := [f"{name}.{key}" for name, (_, keys) in encoded.items() for key in keys]:
        raise InputError(f"{lost[0]} cannot be written as YAML, so the model cannot be published; use a named class")
    model, transform, divisor = (values for values, _ in encoded.values())
    return {"model": model, "dataloader": {"test": {"transform": transform, "size_divisor": divisor}}}


def _write_weights(predictor: Predictor, path: Path) -> None:
    state = predictor.model.state_dict()
    with replacing(path) as temporary:
        write_tensors(temporary, state, class_names=predictor.class_names, category_ids=predictor.category_ids)


def _origin(files: RunFiles, cfg: DictConfig) -> Origin:
    beside = Path(files.weights).parent / "results.json"
    try:
        results = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
    except (OSError, ValueError):
        results = {}
    best = read_checkpoint(files.weights).get("best") or {}
    return Origin(config_name(files.config, cfg), Path(files.weights).name, best, results)
