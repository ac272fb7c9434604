"""configs/common/data/coco.py: its root alone says where the data lies, and what it builds is what it says."""

from itertools import islice

import pytest
import torch
from omegaconf import OmegaConf

from crossstage.config import get_config, instantiate
from crossstage.data.toy import ToySettings, write_toy
from crossstage.data.transforms import SHORT_EDGES
from crossstage.structures import Detections


def test_the_shared_data_node_moves_by_its_root_alone(tmp_path):
    write_toy(tmp_path / "toy", ToySettings(train=4, val=3, size=64))
    config = OmegaConf.create({"train": {"seed": 7}}, flags={"allow_objects": True})
    config.dataloader = get_config("common/data/coco.py").dataloader
    config.dataloader.root = str(tmp_path / "toy")
    config.dataloader.train.total_batch_size = 2
    config.dataloader.train.num_workers = config.dataloader.test.num_workers = 0
    train, test = instantiate(config.dataloader.train), instantiate(config.dataloader.test)
    assert train.seed == 7 and not train.dataset.keep_empty and test.dataset.keep_empty
    assert [min(size) >= 480 for batch in islice(train, 2) for size in batch.sizes] == [True] * 4
    assert [min(batch.sizes[0]) for batch in test] == [800] * 3
    assert config.dataloader.evaluator.json_file == test.dataset.json_file
    assert tuple(config.dataloader.train.transform.short_edges) == SHORT_EDGES


def test_what_the_test_loader_says_of_the_objects_is_worth_100_ap(tmp_path):
    """Category ids, resizing, normalisation and the way back agree: boxes are the annotations, crowd regions aside."""
    write_toy(tmp_path / "toy", ToySettings(train=1, val=12, preset="hard", size=160))
    config = OmegaConf.create({"train": {"seed": 0, "output_dir": str(tmp_path)}}, flags={"allow_objects": True})
    config.dataloader = get_config("common/data/coco.py").dataloader
    config.dataloader.root = str(tmp_path / "toy")
    config.dataloader.test.num_workers = 0
    evaluator = instantiate(config.dataloader.evaluator)
    evaluator.reset()
    for batch in instantiate(config.dataloader.test):
        (target,), ((height, width),) = batch.targets, batch.original_sizes
        center, size = target.boxes.split(2, dim=1)
        corners = torch.cat([center - size / 2, center + size / 2], dim=1) * torch.tensor([width, height] * 2)
        evaluator.process(batch, [Detections(corners, torch.ones(len(target)), target.labels)])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)
