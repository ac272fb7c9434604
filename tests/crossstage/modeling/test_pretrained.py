"""Pretrained weights of timm without internet: no pauses, files in the cache are used, and one line otherwise."""

import time

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from crossstage.errors import InputError
from crossstage.modeling.backbone import TimmBackbone
from crossstage.modeling.pretrained import quick_if_offline

NAME = "test_resnet.r160_in1k"  # the smallest network of timm's


@pytest.fixture
def closed_hub(monkeypatch, tmp_path):
    """A hub that refuses connections, and an empty cache; a pause between two requests fails the test."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"a pause of {seconds} s"))
    return tmp_path


@pytest.mark.parametrize(
    ("offline", "reason"), [(False, r"http://127\.0\.0\.1:9 does not answer: Conn"), (True, "HF_HUB_OFFLINE is set")]
)
def test_without_internet_the_error_comes_at_once_and_names_the_remedies(offline, reason, closed_hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    remedies = r"run once with internet, .*train.init_checkpoint=FILE.*model.backbone.pretrained=False"
    with pytest.raises(InputError, match=rf"{NAME}.*\({reason}.*\); {remedies}"):
        TimmBackbone(NAME)
    assert offline is constants.HF_HUB_OFFLINE


def test_without_internet_weights_in_the_cache_are_used(closed_hub):
    torch.manual_seed(0)
    weights = TimmBackbone(NAME, pretrained=False, frozen_norm=False).body.state_dict()
    folder = closed_hub / f"models--timm--{NAME}"
    for path, text in (("refs/main", "0" * 40), (f"snapshots/{'0' * 40}/README.md", "")):
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_text(text)
    save_file(weights, folder / f"snapshots/{'0' * 40}/model.safetensors")
    assert torch.equal(TimmBackbone(NAME).body.conv1[0].weight, weights["conv1.0.weight"])


@pytest.mark.parametrize("description", [{}, {"hf_hub_id": None, "url": "https://somewhere"}])
def test_weights_that_are_not_on_the_hub_send_no_request(description, closed_hub):
    with quick_if_offline(description) as silent:
        assert silent == "" and not constants.HF_HUB_OFFLINE
