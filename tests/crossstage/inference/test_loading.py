"""Which config and weights `crossstage.load` takes."""

import logging
import shutil

import pytest
from torch import nn

import crossstage
from crossstage.errors import InputError
from crossstage.inference.run_files import find_run_files


@pytest.fixture
def folder(run_folder, tmp_path):
    """A copy of the config of a run; the files of weights are empty, as only their names count here."""
    shutil.copy(run_folder / "config.yaml", tmp_path)
    return tmp_path


def test_the_best_weights_of_a_folder_come_first_then_the_final_then_the_last(folder):
    def found(*, makes: str) -> str:
        (folder / makes).touch()
        return find_run_files(folder).weights.name

    (folder / "last_checkpoint").write_text("model_0000009.pth")
    assert found(makes="model_0000009.pth") == "model_0000009.pth"
    assert found(makes="model.safetensors") == "model.safetensors"
    assert found(makes="model_final.pth") == "model_final.pth"
    assert found(makes="model_best.pth") == "model_best.pth"
    assert find_run_files(folder / "config.yaml").weights.name == "model_best.pth"
    assert find_run_files(folder / "model_final.pth").weights.name == "model_final.pth"
    assert find_run_files(folder, weights="other.pth").weights == "other.pth"
    assert find_run_files("dino_toy", weights="other.pth").config.name == "dino_toy.py"


def test_what_is_missing_is_named(folder, tmp_path):
    with pytest.raises(InputError, match=r"there are no weights with it; give them: crossstage.load"):
        find_run_files(folder)
    with pytest.raises(InputError, match=r"dino_toy: there are no weights"):
        find_run_files("dino_toy")
    with pytest.raises(InputError, match=r"dino_tay: there is no such config.* Did you mean dino_toy"):
        find_run_files("dino_tay", weights="w.pth")
    (folder / "w.pth").touch()
    with pytest.raises(InputError, match=r"is a file of weights, and x\.pth is given too"):
        find_run_files(folder / "w.pth", "x.pth")
    (folder / "config.yaml").unlink()
    with pytest.raises(InputError, match=r"has no config.yaml; expected the folder of a run"):
        find_run_files(tmp_path)


def test_load_says_which_weights_it_takes(run_folder, caplog):
    with caplog.at_level(logging.INFO, "crossstage"):
        predictor = crossstage.load(run_folder, overrides=["model.postprocess.classes=[ring]"], device="cpu")
    assert f"weights {run_folder / 'model_final.pth'}" in caplog.text
    assert predictor.model.postprocess.classes.tolist() == [5], "a name is that of the weights' classes"
    with pytest.raises(InputError, match=r"there is no class rong \(near: ring"):
        crossstage.load(run_folder, overrides=["model.postprocess.classes=[rong]"])
    with pytest.raises(InputError, match="device warp:9: not available"):
        crossstage.load(run_folder, device="warp:9")


def test_compiling_leaves_out_what_depends_on_the_sizes_of_the_pictures(run_folder, monkeypatch):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(type(self).__name__))
    crossstage.load(run_folder, compile=True, device="cpu")
    assert compiled == ["TimmBackbone", "ChannelMapper", "DeformableEncoder", "DeformableDecoder"]


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'lood'"):
        crossstage.lood  # noqa: B018
