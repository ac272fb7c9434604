"""A run's folder and a photo, for all tests of this folder."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tiny_run import write_tiny_run


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny run. Tests must leave it as it is."""
    return write_tiny_run(tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of 48 x 64 pixels."""
    file = tmp_path_factory.mktemp("photos") / "photo.png"
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file)
    return file
