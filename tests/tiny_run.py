"""The folder of a run with a tiny detector of random weights."""

from pathlib import Path

import torch

from crossstage.config import LazyConfig, find_config, instantiate
from tests.tiny_models import tiny

NAMES = ("circle", "square", "triangle", "star", "cross", "ring", "crescent", "arrow")


def write_tiny_run(folder: Path) -> Path:
    """Write config.yaml and model_final.pth, as a training does; returns the folder."""
    cfg = LazyConfig.load(find_config("dino_toy"))
    cfg.model = tiny(cfg.model)
    cfg.train.output_dir = str(folder)
    cfg.dataloader.root = "nowhere"
    LazyConfig.save(cfg, folder / "config.yaml")
    torch.manual_seed(0)
    weights = instantiate(cfg.model).state_dict()
    ids = [3, 4, 5, 6, 7, 9, 11, 13]
    torch.save({"model": weights, "class_names": list(NAMES), "category_ids": ids}, folder / "model_final.pth")
    return folder
