"""A config with a module of one's own in its folder: train, resume and predict, without PYTHONPATH."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from crossstage.data.toy.generate import main as write_toy

ROOT = Path(__file__).parents[2]
STANDIN = ROOT / "tests" / "crossstage" / "engine"


def run(tool: str, *arguments: object, cwd: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, str(ROOT / "tools" / tool), *map(str, arguments)]
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_train_resume_and_predict_with_a_class_of_the_configs_folder(tmp_path: Path):
    assert write_toy(["--output", str(tmp_path / "data"), "--train", "8", "--val", "3", "--size", "96"]) == 0
    mine, elsewhere = tmp_path / "mine", tmp_path / "elsewhere"
    mine.mkdir()
    elsewhere.mkdir()
    for name in ("engine_config.py", "engine_standin.py"):
        shutil.copy(STANDIN / name, mine)
    output = tmp_path / "output"
    given = [f"dataloader.root={tmp_path / 'data'}", f"train.output_dir={output}", "train.device=cpu"]
    train = ["--config-file", mine / "engine_config.py", *given, "train.eval_period=0"]
    run("lazyconfig_train_net.py", *train, "train.max_iter=2", "train.checkpointer.period=1", cwd=tmp_path)
    assert f"_import_from_:\n- {mine}\n" in (output / "config.yaml").read_text()
    run("lazyconfig_train_net.py", *train, "train.max_iter=4", "--resume", cwd=elsewhere)

    weights = ["--config-file", output / "config.yaml", "--weights", output / "model_final.pth"]
    images = ["--input", tmp_path / "data/val2017", "--output", tmp_path / "pictures", "--device", "cpu"]
    run("predict.py", *weights, *images, cwd=elsewhere)
    assert len(json.loads((tmp_path / "pictures/predictions.json").read_text())) == 3
