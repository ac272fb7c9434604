"""Real detrex detectors with CSLA and DCA. Skipped where detrex is absent; runs by PYTHONPATH=DETREX:DETECTRON2."""

import json
import math
from pathlib import Path

import pytest
from detrex_models import BASIC, NAMES, SOURCES

PROJECTS = ("dino", "dn_detr", "deformable_detr", "h_deformable_detr")
HERE = Path(__file__).resolve().parent

CONFIG = """
import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detrex.config import get_config

from csla.detrex import with_csla
from csla.detrex_check import tiny_model
from dca.detrex import with_dca

dataloader = get_config("common/data/coco_detr.py").dataloader
optimizer = get_config("common/optim.py").AdamW
lr_multiplier = get_config("common/coco_schedule.py").lr_multiplier_12ep
train = get_config("common/train.py").train
model = with_dca(with_csla(tiny_model("{detector}")))

train.output_dir = "{output}"
train.device = "cpu"
train.max_iter = train.eval_period = 20
train.log_period = 5
resize = [L(T.ResizeShortestEdge)(short_edge_length=96, max_size=128)]
for part, name in ((dataloader.train, "toy_train"), (dataloader.test, "toy_val")):
    part.dataset.names, part.num_workers = name, 0
    part.mapper.augmentation, part.mapper.augmentation_with_crop = resize, None
dataloader.train.total_batch_size = 2
dataloader.evaluator.output_dir = train.output_dir
"""


@pytest.mark.parametrize("detector", NAMES)
def test_the_stage_alone_is_detrex_s_own_criterion(detector, scenario):
    cases = scenario(detector)["stage_alone"]
    assert [case["names"] for case in cases] == [True] * 2 * len(SOURCES[detector].scenes)
    assert max(case["difference"] for case in cases) < 1e-6


@pytest.mark.parametrize("detector", BASIC)
def test_class_targets_and_losses_are_those_of_the_native_criterion(detector, scenario):
    """Targets bit for bit, for detrex's matches and those of our matcher; H-DETR's second call has repeated objects."""
    calls = scenario(detector)["labels"]
    expected = [[3, 0, 5], [9, 0, 15]] if detector == "H-DETR" else [[3, 0, 5]]
    assert [call["objects"] for call in calls] == expected
    assert [call["equal"] for call in calls] == [[True, True]] * len(calls)
    assert all(call["positives"] > 0 and call["changed"] for call in calls)
    assert max(call["difference"] for call in calls) < 1e-6


@pytest.mark.parametrize("detector", NAMES)
def test_twenty_steps_stay_finite_and_learn(detector, scenario):
    """With CSLA and DCA together; the basic detectors also with each of them alone."""
    by_edits = scenario(detector)["training"]
    assert len(by_edits) == (3 if detector in BASIC else 1)
    for edits, losses in by_edits.items():
        assert len(losses) == 20 and all(map(math.isfinite, losses)), edits
        assert sum(losses[-4:]) < sum(losses[:4]), edits


@pytest.mark.parametrize("detector", BASIC)
def test_each_layer_has_a_second_attention_that_matters(detector, scenario):
    found = scenario(detector)["second_attention"]
    assert found == {"drawn": [True] * 3, "norms": 3, "changes": True}


@pytest.mark.parametrize("detector", PROJECTS)
def test_detrex_s_train_net_trains_and_evaluates(detector, foreign, detrex_root, toy, tmp_path):
    config, output = tmp_path / "config.py", tmp_path / "output"
    config.write_text(CONFIG.format(detector=detector, output=output))
    command = (HERE / "detrex_on_cpu.py", toy, detrex_root / "tools/train_net.py", "--config-file", config)
    foreign(("detrex", "detectron2"), *command)
    *steps, evaluation = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in steps] == [4, 9, 14, 19]
    assert all(math.isfinite(line["total_loss"]) for line in steps)
    assert 0 <= evaluation["bbox/AP"] <= 100
    assert (output / "model_final.pth").is_file() and (output / "coco_instances_results.json").is_file()


def test_the_check_shows_the_labels(foreign):
    command = (
        "import sys, runpy, detrex_on_cpu; detrex_on_cpu.stub(); sys.argv = ['csla.detrex', '--check']; "
        "runpy.run_module('csla.detrex', run_name='__main__')"
    )
    report = foreign(("detrex", "detectron2"), "-c", command).stdout
    assert "csla.detrex works here" in report
    assert "  <-" in report, "the example is one in which CSLA changes labels"
