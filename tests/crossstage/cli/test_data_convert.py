"""YOLO and Pascal VOC folders become COCO's JSON beside their images, with the boxes where they were."""

import json
from pathlib import Path

import pytest
from PIL import Image

from crossstage.cli.data import main
from crossstage.data.layouts import find_splits

BOXES = {"a": [4, 6, 10, 12], "b": [20, 3, 8, 9]}  # x, y, width, height in a picture of 40 x 30
CLASSES = ["dog", "cat"]


@pytest.fixture(autouse=True)
def supervision():
    pytest.importorskip("supervision", reason="the extra 'convert' is not installed")


def picture(path: Path, *, turned: bool = False) -> None:
    """40 x 30 pixels as it is shown; `turned`: stored as 30 x 40, with an EXIF orientation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1
    Image.new("RGB", (30, 40) if turned else (40, 30)).save(path, exif=exif)


def yolo_label(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        (label, (x + w / 2) / 40, (y + h / 2) / 30, w / 40, h / 30) for label, (x, y, w, h) in enumerate(BOXES.values())
    ]
    path.write_text("\n".join(" ".join(map(str, row)) for row in rows))


def voc_label(path: Path) -> None:
    """VOC's corners count pixels from 1, both included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w}</xmax>"
        f"<ymax>{y + h}</ymax></bndbox></object>"
        for name, (x, y, w, h) in zip(CLASSES, BOXES.values(), strict=True)
    )
    path.write_text(f"<annotation>{objects}</annotation>")


def yolo(folder: Path) -> None:
    for split in ("train", "val"):
        picture(folder / f"images/{split}/1.jpg", turned=split == "val")
        yolo_label(folder / f"labels/{split}/1.txt")
        picture(folder / f"images/{split}/empty.jpg")
    (folder / "data.yaml").write_text("train: images/train\nval: images/val\nnames: {0: dog, 1: cat}\n")


def yolo_of_roboflow(folder: Path) -> None:
    for split in ("train", "valid"):
        picture(folder / f"{split}/images/1.jpg")
        yolo_label(folder / f"{split}/labels/1.txt")
        picture(folder / f"{split}/images/empty.jpg")
    (folder / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnames: [dog, cat]\n")


def voc(folder: Path) -> None:
    for name in ("1", "2"):
        picture(folder / f"JPEGImages/{name}.jpg")
        voc_label(folder / f"Annotations/{name}.xml")
        picture(folder / f"JPEGImages/empty{name}.jpg")
    (folder / "ImageSets/Main").mkdir(parents=True)
    for split, name in (("train", "1"), ("val", "2")):
        (folder / f"ImageSets/Main/{split}.txt").write_text(f"{name}\nempty{name}\n")


def voc_of_roboflow(folder: Path) -> None:
    for split in ("train", "valid"):
        picture(folder / f"{split}/1.jpg")
        voc_label(folder / f"{split}/1.xml")
        picture(folder / f"{split}/empty.jpg")


@pytest.mark.parametrize("write", [yolo, yolo_of_roboflow, voc, voc_of_roboflow])
def test_boxes_classes_and_images_are_those_of_the_folder(tmp_path, write):
    write(tmp_path)
    assert main(["convert", str(tmp_path)]) == 0
    splits = find_splits(str(tmp_path))
    for name in ("train", "val"):
        content = json.loads(splits[name].json_file.read_text())
        names = {category["id"]: category["name"] for category in content["categories"]}
        assert sorted(names.values()) == sorted(CLASSES)
        assert [(image["width"], image["height"]) for image in content["images"]] == [(40, 30)] * 2
        assert all((splits[name].image_root / image["file_name"]).is_file() for image in content["images"])
        found = {names[one["category_id"]]: one["bbox"] for one in content["annotations"]}
        assert found == {
            label: pytest.approx(box, abs=0.01) for label, box in zip(CLASSES, BOXES.values(), strict=True)
        }
    assert main(["check", str(tmp_path), "--output", str(tmp_path / "out")]) == 0
    assert main(["convert", str(tmp_path)]) == 2, "nothing is written over"


def test_an_undivided_folder_is_to_be_split(tmp_path, capsys):
    voc(tmp_path)
    for file in (tmp_path / "ImageSets/Main").iterdir():
        file.unlink()
    assert main(["convert", str(tmp_path)]) == 0
    assert "next: crossstage data split" in capsys.readouterr().out
    assert main(["split", str(tmp_path / "annotations/all.json"), "--val", "0.5"]) == 0
    assert find_splits(str(tmp_path))["train"].image_root == tmp_path


def bad_line(folder):
    yolo(folder)
    (folder / "labels/train/1.txt").write_text("0 0.5 x 0.1 0.1")


def no_labels(folder):
    picture(folder / "images/train/1.jpg")
    (folder / "data.yaml").write_text("train: images/train\nnames: [dog]\n")


def no_names(folder):
    (folder / "data.yaml").write_text("train: images/train\n")


def wrong_path(folder):
    (folder / "data.yaml").write_text("train: nowhere\nnames: [dog]\n")


def bad_xml(folder):
    voc(folder)
    (folder / "Annotations/1.xml").write_text("<annotation>")


WRONG = {
    "a bad line": (bad_line, "1.txt"),
    "no labels": (no_labels, "labels/train: no such folder"),
    "no names": (no_names, 'has no "names"'),
    "a wrong path": (wrong_path, "names the folder nowhere, which is not there"),
    "bad XML": (bad_xml, "Annotations: "),
    "something else": (lambda folder: None, "is neither a YOLO data set (data.yaml) nor a Pascal VOC one"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_one_line_and_status_2(tmp_path, capsys, case):
    write, message = WRONG[case]
    write(tmp_path)
    assert main(["convert", str(tmp_path)]) == 2
    said = capsys.readouterr().err.strip()
    assert message in said and "\n" not in said
