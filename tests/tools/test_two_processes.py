"""Two processes are one: the same losses as a single process with the same total batch, on the real detector."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "projects/dino/configs/dino_toy_csla.py"


@pytest.fixture
def half_empty(tmp_path: Path) -> Path:
    """A COCO-format folder of two 64x64 training images, the second without objects, and one to evaluate."""
    numbers = np.random.default_rng(0)
    boxes = [([8, 8, 24, 30], 1), ([30, 20, 28, 28], 2)]
    for split, images in (("train2017", 2), ("val2017", 1)):
        folder = tmp_path / "data" / split
        folder.mkdir(parents=True)
        for number in range(images):
            Image.fromarray(numbers.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(folder / f"{number}.jpg")
        content = {
            "images": [{"id": i, "file_name": f"{i}.jpg", "height": 64, "width": 64} for i in range(images)],
            "categories": [{"id": i, "name": f"class {i}"} for i in range(1, 9)],
            "annotations": [
                {"id": i, "image_id": 0, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": 0}
                for i, (b, c) in enumerate(boxes)
            ],
        }
        annotations = tmp_path / "data" / "annotations"
        annotations.mkdir(exist_ok=True)
        (annotations / f"instances_{split}.json").write_text(json.dumps(content))
    return tmp_path / "data"


def losses(root: Path, output: Path, *options: str) -> list[dict]:
    """Train four steps and return the lines of metrics.json."""
    command = [sys.executable, "tools/lazyconfig_train_net.py", "--config-file", CONFIG, *options]
    overrides = {
        "dataloader.root": root,
        "train.output_dir": output,
        "train.device": "cpu",
        "train.max_iter": 4,
        "train.log_period": 1,
        "train.eval_period": 0,
        "dataloader.train.total_batch_size": 2,
        "dataloader.train.num_workers": 0,
        "dataloader.test.num_workers": 0,
        "dataloader.train.dataset.keep_empty": True,
        "model.backbone.frozen_norm": True,  # statistics of half a batch are others
        "model.queries.extra": "[]",  # its noise is drawn by each process
    }
    command += [f"{key}={value}" for key, value in overrides.items()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    return [line for line in lines if "total_loss" in line]


def test_two_processes_lose_what_one_does_when_one_of_them_sees_only_empty_images(half_empty, tmp_path):
    alone = losses(half_empty, tmp_path / "alone")
    together = losses(half_empty, tmp_path / "together", "--num-gpus", "2")
    assert len(alone) == len(together) == 4
    for one, two in zip(alone, together, strict=True):
        names = [name for name in one if "loss" in name]
        assert len(names) == 13  # 3 stages and the proposals, three losses each, and the total
        assert [two[name] for name in names] == pytest.approx([one[name] for name in names], abs=1e-5, rel=1e-5)
