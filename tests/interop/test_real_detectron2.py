"""Native detectors under detectron2's trainer, evaluator, DefaultPredictor and Visualizer, and its datasets under ours.

Skipped without detectron2.
"""

import json
import math
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module", params=["dino_toy_csla", "stage_interactor_toy", "deqdet_toy"])
def run(request, foreign, toy):
    done = foreign(("detectron2",), HERE / "detectron2_scenarios.py", request.param, toy, 60)
    return json.loads(done.stdout.splitlines()[-1])


def test_a_native_model_trains_under_detectron2(run):
    losses = run["losses"]
    assert len(losses) == 60 and all(map(math.isfinite, losses))
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_coco_evaluator_and_ours_agree(run):
    """Two loaders, two channel orders, two evaluators: the same AP, and one that says something."""
    assert run["ours"]["AP50"] > 0
    assert set(run["theirs"]) == set(run["ours"])
    for name, ours in run["ours"].items():
        assert run["theirs"][name] == pytest.approx(ours, abs=1e-9, nan_ok=True), name


def test_default_predictor_loads_the_weights_and_visualizer_draws_the_detections(run):
    found = run["predicted"]
    assert found["equal"] and found["detections"] > 0 and found["pixels_drawn"] > 0


def test_a_dataset_of_functions_comes_as_the_one_of_files(run):
    assert run["records"]["equal"]
    assert run["records"]["images"] == 6
