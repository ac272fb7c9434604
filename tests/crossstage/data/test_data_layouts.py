"""The files of a data set are found in the layouts that exporters write, and the config follows them."""

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from PIL import Image

from crossstage.config import LazyConfig, find_config
from crossstage.data.coco import CocoDetection
from crossstage.data.layouts import find_splits
from crossstage.data.own_data import settle_data
from crossstage.errors import InputError


def write(root: Path, json_file: str, image_folder: str, *, prefix: str = "", names: str = "ab") -> None:
    """A JSON with one image, whose file name begins with `prefix`, and the image in `image_folder`."""
    categories = [{"id": number, "name": name} for number, name in enumerate(names)]
    annotation = {"id": 1, "image_id": 1, "category_id": 0, "bbox": [1, 1, 9, 9]}
    image = {"id": 1, "file_name": f"{prefix}1.png", "width": 16, "height": 16}
    (root / json_file).parent.mkdir(parents=True, exist_ok=True)
    (root / json_file).write_text(
        json.dumps({"images": [image], "annotations": [annotation], "categories": categories})
    )
    (root / image_folder).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16)).save(root / image_folder / "1.png")


LAYOUTS = {  # name: (train JSON, its images, val JSON, its images, prefix of file names)
    "COCO": (
        "annotations/instances_train2017.json", "train2017", "annotations/instances_val2017.json", "val2017", ""
    ),
    "COCO without the year": (
        "annotations/instances_train.json", "train", "annotations/instances_val.json", "val", ""
    ),
    "COCO below images": (
        "annotations/instances_train2017.json", "images/train2017", "annotations/instances_val2017.json",
        "images/val2017", "",
    ),
    "plain names, one folder": ("annotations/train.json", "images", "annotations/val.json", "images", ""),
    "plain names, two folders": ("annotations/train.json", "train", "annotations/valid.json", "valid", ""),
    "plain names, images/split": (
        "annotations/train.json", "images/train", "annotations/validation.json", "images/validation", ""
    ),
    "file names with folders": (
        "annotations/train.json", "images/train", "annotations/val.json", "images/val", "SPLIT/"
    ),
    "Roboflow": ("train/_annotations.coco.json", "train", "valid/_annotations.coco.json", "valid", ""),
    "FiftyOne": ("train/labels.json", "train/data", "val/labels.json", "val/data", ""),
    "all in one folder": ("train.json", ".", "val.json", ".", ""),
    "words in names": ("annotations/cells_train.json", "images", "annotations/cells-val.json", "images", ""),
    "only a test set": ("annotations/train.json", "images", "annotations/test.json", "images", ""),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_found(tmp_path, layout):
    train, train_images, val, val_images, prefix = LAYOUTS[layout]
    write(tmp_path, train, train_images, prefix=prefix.replace("SPLIT", "train"))
    write(tmp_path, val, val_images, prefix=prefix.replace("SPLIT", "val"))
    splits = find_splits(str(tmp_path))
    roots = (train_images, val_images) if not prefix else ("images", "images")
    for name, json_file, root in (("train", train, roots[0]), ("val", val, roots[1])):
        assert splits[name].json_file == tmp_path / json_file
        assert splits[name].image_root.resolve() == (tmp_path / root).resolve()
    assert find_splits([str(tmp_path / train), str(tmp_path / val)]) == {k: splits[k] for k in ("train", "val")}


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for split in ("train", "val"):
        write(tmp_path / "data", f"annotations/{split}.json", "images")
    assert find_splits("~/data") == find_splits(str(tmp_path / "data"))
    dataset = CocoDetection("~/data/annotations/train.json", "~/data/images")
    assert dataset[0].pixels.shape == (3, 16, 16)


def test_hidden_copies_do_not_matter(tmp_path):
    """Archives of macOS have a "._" file for each file, and notebooks keep copies in hidden folders."""
    for name in ("train", "val"):
        write(tmp_path, f"annotations/{name}.json", "images")
        (tmp_path / "annotations" / f"._{name}.json").write_bytes(b"\0\5\26\7")
    write(tmp_path, ".ipynb_checkpoints/instances_train.json", "images")
    assert find_splits(str(tmp_path))["train"].json_file == tmp_path / "annotations/train.json"


def test_captions_and_keypoints_beside_coco_do_not_matter(tmp_path):
    for split in ("train", "val"):
        write(tmp_path, f"annotations/instances_{split}2017.json", f"{split}2017")
        for other in ("captions", "person_keypoints"):
            (tmp_path / f"annotations/{other}_{split}2017.json").write_text("{}")
    assert find_splits(str(tmp_path))["val"].json_file.name == "instances_val2017.json"


def only_train(root):
    write(root, "annotations/train.json", "images")


def two_trains(root):
    write(root, "annotations/a_train.json", "images")
    write(root, "annotations/b_train.json", "images")


def one_file(root):
    write(root, "_annotations.coco.json", ".")


def lost_images(root):
    write(root, "annotations/train.json", "elsewhere/deep")
    write(root, "annotations/val.json", "elsewhere/deep")


def yolo(root):
    (root / "data.yaml").write_text("names: [a]")


def voc(root):
    (root / "Annotations").mkdir()
    (root / "Annotations/1.xml").write_text("<annotation/>")


WRONG = {
    "no folder": (lambda root: root.rmdir(), "no such folder"),
    "nothing in it": (lambda root: None, "a training set is not found; its JSON files: none"),
    "no validation set": (only_train, "a validation set is not found; its JSON files: annotations/train.json"),
    "two training sets": (two_trains, "several files could be the train set"),
    "one file": (one_file, "a training set is not found; its JSON files: _annotations.coco.json"),
    "images elsewhere": (lost_images, "its images (the first is 1.png) are not in"),
    "YOLO": (yolo, "is a YOLO data set; crossstage data convert"),
    "VOC": (voc, "is a Pascal VOC data set; crossstage data convert"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_not_found_is_one_line(tmp_path, case):
    make, message = WRONG[case]
    folder = tmp_path / "data"
    folder.mkdir()
    make(folder)
    with pytest.raises(InputError) as caught:
        find_splits(str(folder))
    assert message in str(caught.value) and str(folder) in str(caught.value) and "\n" not in str(caught.value)


@pytest.fixture
def config():
    return LazyConfig.load(find_config("dino_toy"))


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, "annotations/train.json", "images", names="abc")
    write(tmp_path, "annotations/val.json", "images", names="ca")
    return tmp_path


def classes_in(config):
    nodes = (config.dataloader.train.dataset, config.dataloader.test.dataset, config.dataloader.evaluator)
    return [list(node.classes) for node in nodes]


def test_data_decides_the_files_the_classes_and_their_number(config, folder):
    config.dataloader.data = str(folder)
    settle_data(config)
    assert config.dataloader.train.dataset.json_file == str(folder / "annotations/train.json")
    assert config.dataloader.evaluator.json_file == str(folder / "annotations/val.json")
    assert config.model.num_classes == 3 and classes_in(config) == [["a", "b", "c"]] * 3
    assert config.model.decoder.class_head.num_classes == 3, "the heads follow"
    before = OmegaConf.to_yaml(config)
    settle_data(config)
    assert OmegaConf.to_yaml(config) == before, "a stored config loads again as it is"


def test_a_file_on_the_command_line_comes_before_that_of_the_folder(config, folder):
    config.dataloader.data = str(folder)
    config.dataloader.test.dataset.json_file = "test.json"
    settle_data(config, asked=["dataloader.test.dataset.json_file=test.json"])
    assert config.dataloader.test.dataset.json_file == config.dataloader.evaluator.json_file == "test.json"
    assert config.dataloader.test.dataset.image_root == str(folder / "images")


def test_the_classes_of_weights_come_first(config, folder):
    config.dataloader.data = str(folder)
    settle_data(config, class_names=["c", "b", "a", "d"])
    assert config.model.num_classes == 4 and classes_in(config) == [["c", "b", "a", "d"]] * 3


def test_a_number_of_classes_on_the_command_line_is_not_changed(config, folder):
    config.dataloader.data = str(folder)
    config.model.num_classes = 5
    settle_data(config, asked=["model.num_classes=5"])
    assert config.model.num_classes == 5, "the error comes when the model is built"


def test_data_given_by_root_keep_the_number_of_the_config_and_share_the_classes(config, tmp_path):
    for split, names in (("train", "abc"), ("val", "ca")):
        write(tmp_path, f"annotations/instances_{split}2017.json", f"{split}2017", names=names)
    config.dataloader.root = str(tmp_path)
    settle_data(config)
    assert config.model.num_classes == 8 and classes_in(config) == [["a", "b", "c"]] * 3


def test_classes_to_detect_are_names_of_the_data_or_indices(config, folder):
    config.dataloader.data = str(folder)
    config.model.postprocess.classes = ["c", 0]
    settle_data(config, class_names=["a", "c", "b"])
    assert config.model.postprocess.classes == [1, 0]
    config.model.postprocess.classes = "b"
    settle_data(config)
    assert config.model.postprocess.classes == [2], "in the order that the config has stored"
    config.model.postprocess.classes = ["cc"]
    with pytest.raises(InputError, match=r"there is no class cc \(near: c\); the 3 classes are a, c, b"):
        settle_data(config)


def test_stored_classes_of_other_data_are_replaced_and_told(config, folder, caplog):
    config.dataloader.train.dataset.classes = ["x", "y"]
    config.dataloader.data = str(folder)
    settle_data(config)
    assert classes_in(config) == [["a", "b", "c"]] * 3 and "the file's are used" in caplog.text
    config.dataloader.train.dataset.classes = ["c", "b", "a"]
    settle_data(config)
    assert classes_in(config) == [["c", "b", "a"]] * 3, "an order of one's own is kept"


def test_without_data_nothing_changes(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the quickstart writes the config's default data into the checkout
    before = OmegaConf.to_yaml(config)
    settle_data(config)
    assert OmegaConf.to_yaml(config) == before
