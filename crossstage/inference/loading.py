"""`crossstage.load`: from a run's folder, or a config and weights, to a predictor."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from crossstage.config import LazyConfig
from crossstage.inference.classes import settle_classes
from crossstage.inference.hub import PREFIX, pull
from crossstage.inference.predictor import Predictor, build_predictor, choose_device
from crossstage.inference.run_files import find_run_files
from crossstage.inference.safe_config import read_restricted

logger = logging.getLogger("crossstage.inference")

HEAVY = ("backbone", "neck", "encoder", "decoder")  # of a detector; the rest depends on the sizes of the pictures


def load(
    source: str | Path,
    weights: str | Path | None = None,
    *,
    device: str | torch.device | None = None,
    compile: bool = False,
    overrides: Sequence[str] = (),
) -> Predictor:
    """Load a trained detector.

    ```
    import crossstage

    detector = crossstage.load("output/quickstart")
    found = detector.predict("photo.jpg", threshold=0.3)
    print(found.names, found.scores, found.boxes_xyxy)
    ```

    Args:
        source: the folder of a run, or one that `crossstage pull` wrote; "hf://user/name", which is fetched; a file of
            weights in such a folder; a config's short name or its file, with `weights`.
        weights: a checkpoint: a file or an http(s) address. None takes those of the folder: the best, else the final,
            else the last ones; the log says which.
        device: "cpu", "cuda" or "cuda:1"; None takes a GPU if there is one.
        compile: whether `torch.compile` is used. The first images of each size are then slow.
        overrides: changes to the config as on the command line, such as "model.postprocess.num_select=100".

    Returns:
        The predictor, with the model in evaluation mode.

    Raises:
        InputError: if a file is missing, or the weights do not fit the config.
    """
    is_fetched = str(source).startswith(PREFIX)
    files = find_run_files(pull(str(source)) if is_fetched else source, weights)
    logger.info("config %s, weights %s", files.config, files.weights)
    # LazyConfig.load would make the folder importable, and other programs may have fetched Python files into it.
    cfg = read_restricted(files.config) if is_fetched else LazyConfig.load(files.config)
    cfg = LazyConfig.apply_overrides(cfg, list(overrides))
    problems: list[str] = []
    truth = settle_classes(cfg, files.weights, asked=list(overrides), problems=problems)
    for problem in problems:
        logger.warning("annotations are not read: %s", problem)
    chosen = choose_device(device)
    predictor = build_predictor(cfg, files.weights, source=files.config, truth=truth, device=chosen)
    return replace(predictor, model=compiled(predictor.model)) if compile else predictor


def compiled(model: nn.Module) -> nn.Module:
    """The same model with its heavy parts compiled, in place; all of it if it is no detector of ours."""
    parts = [part for name in HEAVY if isinstance(part := getattr(model, name, None), nn.Module)]
    for part in parts or [model]:
        part.compile()
    return model
