"""tools/lazyconfig_train_net.py as people start it: several processes, help, exit status."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from crossstage.checkpoints.load import read_checkpoint
from crossstage.cli.train import main
from crossstage.data.toy.generate import main as write_toy
from crossstage.engine.metrics import MetricsFile

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "lazyconfig_train_net.py"
STANDIN = ROOT / "tests" / "crossstage" / "engine"


@pytest.fixture(scope="module")
def toy_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("toy") / "data"
    counts = ["--train", "24", "--val", "9", "--size", "96", "--workers", "1"]
    assert write_toy(["--output", str(root), *counts]) == 0
    return root


def start(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(STANDIN), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(TOOL), *arguments]
    return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=120)


def run_arguments(root: Path, folder: str, *more: str) -> list[str]:
    given = [f"dataloader.root={root}", f"train.output_dir={folder}", "train.max_iter=6", "model.noise=0"]
    return ["--config-file", str(STANDIN / "engine_config.py"), "train.device=cpu", *given, *more]


def test_two_processes_train_as_one(toy_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(STANDIN)
    assert main(run_arguments(toy_root, "run1")) == 0
    done = start(*run_arguments(toy_root, "run2", "--num-gpus", "2"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    one, two = (MetricsFile(tmp_path / f"run{count}/metrics.json").read() for count in (1, 2))
    assert [row["iteration"] for row in one] == [row["iteration"] for row in two] == [1, 3, 5, 6]
    for row, its in zip(one[:3], two[:3], strict=True):
        for name in ("total_loss", "loss_class", "loss_bbox"):
            assert its[name] == pytest.approx(row[name], abs=1e-5)
    # In the evaluation, the stand-in compared its brightness, which differed between the processes after training.
    weights = [read_checkpoint(tmp_path / f"run{count}/model_final.pth") for count in (1, 2)]
    for name, tensor in weights[0]["model"].items():
        assert name == "brightness" or (weights[1]["model"][name] - tensor).abs().max() < 1e-5
    assert len(weights[1]["random"]) == 2
    # each of the 9 images was evaluated once: 8 detections (classes) each
    assert "9 images" in (tmp_path / "run2/log.txt").read_text()
    assert one[3].keys() == two[3].keys()


def test_an_error_of_one_process_is_one_line_and_ends_all(toy_root, tmp_path):
    accident = ["model.accident=input", "model.accident_at=2", "--num-gpus", "2"]
    done = start(*run_arguments(toy_root, "run", *accident), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    remedy = "--resume comes to the same step again; train.bad_batch=skip leaves such steps out; iteration 1 is saved"
    assert errors == [f"error: 000000000017.jpg: truncated; copy it again; {remedy}"]
    log = (tmp_path / "run/log.txt").read_text()
    assert "truncated; copy it again" in log.splitlines()[-1] and "Traceback" in log
    assert "Traceback" not in done.stderr


def test_help_has_examples_and_main_is_importable(capsys):
    spec = importlib.util.spec_from_file_location("lazyconfig_train_net", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(SystemExit) as left:
        module.main(["--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    for option in (
        "--config-file",
        "--resume",
        "--eval-only",
        "--num-gpus",
        "--num-machines",
        "--dist-url",
        "examples:",
    ):
        assert option in text
    assert module.main(["--config-file", "absent.py"]) == 2
