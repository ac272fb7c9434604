"""A generated dataset and a way to run the trainer on it, in this process or in one of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from crossstage.cli.train import main
from crossstage.data.toy.generate import main as write_toy

HERE = Path(__file__).parent
TOOL = HERE.parents[2] / "tools" / "lazyconfig_train_net.py"
CONFIG = HERE / "engine_config.py"


@pytest.fixture(scope="session")
def toy_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("toy") / "data"
    counts = ["--train", "24", "--val", "8", "--size", "96", "--workers", "1"]
    assert write_toy(["--output", str(root), *counts]) == 0
    return root


@pytest.fixture
def arguments(toy_root: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """The command line of a run into tmp_path / folder."""

    def build(folder: str, *more: str) -> list[str]:
        given = [f"dataloader.root={toy_root}", f"train.output_dir={tmp_path / folder}", "train.device=cpu"]
        return ["--config-file", str(CONFIG), *given, *more]

    return build


@pytest.fixture
def run(arguments: Callable[..., list[str]], tmp_path: Path) -> Callable[..., Path]:
    """Run in this process, demand success, return the output folder."""

    def start(folder: str, *more: str) -> Path:
        assert main(arguments(folder, *more)) == 0
        return tmp_path / folder

    return start


@pytest.fixture
def run_alone(arguments: Callable[..., list[str]]) -> Callable[..., subprocess.CompletedProcess]:
    """Run the tool in a process of its own."""

    def start(folder: str, *more: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": str(torch.get_num_threads())}
        command = [sys.executable, str(TOOL), *arguments(folder, *more)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    return start
