"""Configs with CSLA and DCA in a real detrex. Skipped where detrex is absent, as `test_real_detrex`."""

import json
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def found(foreign, tmp_path_factory) -> dict[str, Any]:
    command = (HERE / "detrex_configs.py", tmp_path_factory.mktemp("configs"))
    return json.loads(foreign(("detrex", "detectron2"), *command).stdout.splitlines()[-1])


def test_the_configs_of_the_readmes_evaluate_into_their_own_folder(found):
    """detrex's `dataloader.evaluator.output_dir` is a copy of its own `train.output_dir`, not an interpolation."""
    folders = found["readme"]
    assert [folder["train"] for folder in folders.values()] == [folder["evaluator"] for folder in folders.values()]
    assert folders["csla"]["train"] == "./output/dino_r50_4scale_12ep_csla"
    assert folders["dca"]["train"] == "./output/dino_r50_4scale_12ep_csla_dca"


def test_a_config_is_python_and_yaml_for_detectron2(found):
    for call in ("csla.detrex.cross_stage_criterion(", "dca.detrex.dual_attention_decoder(", "csla.CrossStageLabels("):
        assert call in found["python"]
    assert "iou_threshold=0.5" in found["python"] and "look_back=1" in found["python"]
    first, second = found["saved"]["totals"]
    assert first == second
    assert "iou_threshold=0.5" in "".join(found["saved"]["printed"])


def test_detectron2_s_checkpointer_loads_plain_weights_into_the_first_attention(found):
    assert found["loaded"] == {"first": True, "many": True, "second": True}


@pytest.mark.parametrize(
    ("detector", "message"),
    [
        ("SQR-DETR", "RuntimeError: the outputs of matching have 6 stages, but the decoder has 3 layers"),
        ("DETR", "TypeError: SetCriterion: loss_class_type='ce_loss'"),
        ("PnP-DETR", "TypeError: SetCriterion: loss_class_type='ce_loss'"),
        ("AlignDETR", "TypeError: csla.detrex adapts criteria that compute their losses as"),
        (
            "MaskDINO",
            "TypeError: SetCriterion has its own class loss (loss_labels), which does not accept multi-hot labels",
        ),
        ("Deformable-DETR", "ValueError: groups=['denoising']: the model has no group 'denoising'. It has: matching"),
        ("Anchor-DETR, DCA", "ValueError: with_dca needs a detrex model node that has a `transformer.decoder`"),
    ],
)
def test_what_cannot_be_done_is_refused(detector, message, found):
    assert found["refusals"][detector].startswith(message)
