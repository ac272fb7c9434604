"""A run's folder with a tiny detector of random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crossstage.config import LazyConfig, find_config, instantiate
from tests.tiny_models import tiny

NAMES = ("circle", "square", "triangle", "star", "cross", "ring", "crescent", "arrow")


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """config.yaml and model_final.pth, as a training writes them. Tests must leave it as it is."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
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


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of 48 x 64 pixels."""
    file = tmp_path_factory.mktemp("photos") / "photo.png"
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file)
    return file
