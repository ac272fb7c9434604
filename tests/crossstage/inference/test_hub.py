"""Models on a hub, which is a folder here: what is uploaded, what is fetched, what is refused."""

import json
import shutil
import sys
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml
from safetensors import safe_open

import crossstage
from crossstage.checkpoints.load import read_checkpoint
from crossstage.cli import main
from crossstage.config import LazyConfig, find_config
from crossstage.errors import InputError
from crossstage.inference.hub import pull, push
from crossstage.inference.publication import published_config
from crossstage.inference.safe_config import check_restricted
from tests.tiny_run import NAMES


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder in place of the hub: repositories are folders in it."""
    root = tmp_path / "hub"

    class Api:
        def create_repo(self, repo: str, *, private: bool, exist_ok: bool) -> None:
            (root / repo).mkdir(parents=True, exist_ok=exist_ok)

        def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> str:
            shutil.copytree(folder_path, root / repo_id, dirs_exist_ok=True)
            return f"address of {repo_id}"

    def snapshot(repo, *, revision, local_dir, allow_patterns):
        if not (root / repo).is_dir():
            raise ConnectionError(f"404: there is no\n{repo}")
        target = local_dir or tmp_path / "cache"
        for file in (root / repo).iterdir():
            if any(fnmatch(file.name, pattern) for pattern in allow_patterns):
                target.mkdir(exist_ok=True)
                shutil.copy(file, target)
        return str(target)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.chdir(tmp_path)
    return root


def test_a_model_that_is_pushed_and_pulled_detects_the_same(hub, run_folder, photo, capsys):
    assert main(["push", str(run_folder), "me/tiny"]) == 0
    assert sorted(file.name for file in (hub / "me/tiny").iterdir()) == [
        "README.md",
        "config.yaml",
        "model.safetensors",
    ]
    assert main(["pull", "me/tiny"]) == 0 and "address of me/tiny" in capsys.readouterr().out
    expected = crossstage.load(run_folder, device="cpu").predict(photo, threshold=0.0)
    for source in ("tiny", "tiny/model.safetensors", "hf://me/tiny"):
        found = crossstage.load(source, device="cpu").predict(photo, threshold=0.0)
        assert found.boxes_xyxy.equal(expected.boxes_xyxy) and found.scores.equal(expected.scores)
        assert found.class_names == NAMES and found.category_ids == expected.category_ids
    assert not [place for place in sys.path if "cache" in place and str(hub.parent) in place]
    assert [file.name for file in Path().iterdir() if file.name.startswith(".")] == []


def test_the_files_hold_no_code_and_no_places_of_this_machine(hub, run_folder):
    push(run_folder, "me/tiny")
    text = (hub / "me/tiny/config.yaml").read_text()
    assert set(yaml.safe_load(text)) == {"model", "dataloader"} and "${" not in text and str(run_folder) not in text
    with safe_open(hub / "me/tiny/model.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["class_names"]) == list(NAMES)
    assert read_checkpoint(hub / "me/tiny/model.safetensors")["category_ids"][:2] == [3, 4]


def test_the_card_has_scores_classes_an_example_and_the_licence_if_it_is_given(run_folder, tmp_path):
    run = shutil.copytree(run_folder, tmp_path / "run")
    about = {"weights": "model_final.pth", "data": {"json_file": "val.json", "images": 20}}
    (run / "results.json").write_text(json.dumps({"bbox": {"AP": 12.345, "APl": None}, "about": about}))
    assert main(["push", str(run), "me/tiny", "--output", str(tmp_path / "out"), "--license", "mit"]) == 0
    card = (tmp_path / "out/README.md").read_text()
    fields = yaml.safe_load(card.split("---")[1])
    assert fields["license"] == "mit" and fields["library_name"] == "crossstage"
    assert 'crossstage.load("hf://me/tiny")' in card and ", ".join(NAMES) in card and crossstage.__version__ in card
    assert "bbox of `model_final.pth` on 20 images of `val.json`" in card and "| AP |\n| --- |\n| 12.35 |" in card
    assert main(["push", str(run_folder), "me/tiny", "--output", str(tmp_path / "bare")]) == 0
    bare = (tmp_path / "bare/README.md").read_text()
    assert "license" not in yaml.safe_load(bare.split("---")[1]) and "Not given yet" in bare
    assert "The run has no scores." in bare


@pytest.mark.parametrize(
    "name",
    [
        *("adamixer_toy", "dab_detr_toy", "deformable_detr_toy", "deqdet_toy", "dino_toy_csla_dca", "dino_toy_paq"),
        *("dino_swin_toy", "dn_detr_toy_paq", "h_detr_toy", "stage_interactor_toy", "dino_r50_4scale_12ep"),
    ],
)
def test_every_kind_of_detector_can_be_published(name):
    check_restricted(published_config(LazyConfig.load(find_config(name))), name)


PART = "crossstage.modeling.neck.ChannelMapper"
REFUSED = {
    "a function of Python": {"model": {"_target_": "os.system", "command": "true"}},
    "a module of ours as the way to another": {"model": {"_target_": "crossstage.modeling.backbone.torch.hub.load"}},
    "a foreign class by a module of ours": {
        "model": {"_target_": "crossstage.modeling.backbone.torch.utils.data.DataLoader"}
    },
    "a function of ours": {"model": {"_target_": "crossstage.config.lazy.LazyConfig.load_pickle"}},
    "a function among the parts": {"model": {"_target_": "crossstage.modeling.neck.pyramid"}},
    "a class of another library": {"model": {"_target_": "torch.nn.Module.__subclasses__"}},
    "a foreign class in a list": {"model": {"_target_": PART, "edits": [{"_target_": "subprocess.Popen"}]}},
    "a target that is a node": {"model": {"_target_": {"_target_": PART}}},
    "an object": {"model": {"_target_": PART, "norm": {"_object_": "os.system"}}},
    "folders for imports": {"model": {"_target_": PART}, "_import_from_": ["/tmp"]},
    "folders further below": {"model": {"_target_": PART, "_import_from_": ["/tmp"]}},
    "training": {"model": {"_target_": PART}, "train": {"init_checkpoint": "x.pth"}},
    "an interpolation": {"model": {"_target_": PART, "name": "${oc.env:HOME}"}},
    "a backbone of the web": {"model": {"backbone": {"name": "hf-hub:them/evil", "pretrained": False}}},
    "a backbone of a folder": {"model": {"backbone": {"name": "local-dir:x", "pretrained": False}}},
    "pretrained weights": {"model": {"backbone": {"name": "resnet18"}}},
    "a file of weights": {
        "model": {"backbone": {"name": "resnet18", "pretrained": False, "options": {"checkpoint_path": "x"}}}
    },
    "a place among the options": {
        "model": {"backbone": {"name": "resnet18", "pretrained": False, "options": {"a": ["/etc/x"]}}}
    },
    "a list": [1],
    "nothing": {},
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_config_that_could_run_code_is_refused_before_anything_is_built(hub, run_folder, case):
    (hub / "them/evil").mkdir(parents=True)
    (hub / "them/evil/config.yaml").write_text(yaml.safe_dump(REFUSED[case]))
    shutil.copy(run_folder / "model_final.pth", hub / "them/evil/model.safetensors")  # which is never read
    for fetch in (lambda: pull("them/evil", "out"), lambda: crossstage.load("hf://them/evil")):
        with pytest.raises(InputError, match=r"config\.yaml: refused, "):
            fetch()
    assert not Path("out").exists()


def test_python_and_pickles_are_not_fetched(hub, run_folder, capsys):
    (hub / "them/evil").mkdir(parents=True)
    (hub / "them/evil/config.py").write_text("raise SystemExit")
    torch.save({}, hub / "them/evil/model_final.pth")
    assert main(["pull", "them/evil"]) == 2
    said = capsys.readouterr().err
    assert "refused, it has no config.yaml and no model.safetensors" in said and "they can run code" in said
    assert not Path("evil").exists()
    push(run_folder, "them/evil")
    assert sorted(file.name for file in pull("them/evil", "out").iterdir()) == [
        "README.md", "config.yaml", "model.safetensors",
    ]  # fmt: skip


def test_mistakes_are_one_line(hub, run_folder, tmp_path):
    with pytest.raises(InputError, match=r"no/such: cannot be fetched \(ConnectionError: 404: there is no no/such\)"):
        pull("no/such", "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(InputError, match="full: exists already; expected a new or an empty folder"):
        pull("me/tiny", "full")


def test_a_model_with_parts_of_ones_own_is_not_published(run_folder, tmp_path):
    cfg = LazyConfig.load(run_folder / "config.yaml")
    cfg.model.criterion.groups.matching.labels._target_ = "tests.crossstage.inference.test_hub.OwnLabels"
    LazyConfig.save(cfg, tmp_path / "config.yaml")
    with pytest.raises(InputError, match=r"model.criterion.groups.matching.labels._target_ is 'tests"):
        push(tmp_path / "config.yaml", "me/own", weights=run_folder / "model_final.pth")


class OwnLabels:
    """A label rule of one's own."""
