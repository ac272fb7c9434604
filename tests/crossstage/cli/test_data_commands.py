"""`crossstage data`: all problems at once, pictures, and a division that keeps every class on both sides."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossstage.cli.data import main
from crossstage.data.coco_json import read_coco


def write(folder: Path, split: str, annotations: list[dict], *, images: int = 3, names: str = "ab") -> dict:
    """A split of pictures of 40 x 30, in COCO's plain layout; returns the content of the JSON."""
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / split).mkdir(exist_ok=True)
    for number in range(images):
        seed = number + 100 * (split == "val")
        pixels = np.random.default_rng(seed).integers(0, 255, (30, 40, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / split / f"{number}.png")
    content = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 40, "height": 30} for n in range(images)],
        "categories": [{"id": n, "name": name} for n, name in enumerate(names)],
        "annotations": [{"id": n, "category_id": 0, **one} for n, one in enumerate(annotations)],
    }
    (folder / f"annotations/{split}.json").write_text(json.dumps(content))
    return content


OBJECTS = [{"image_id": n, "bbox": [5 + n, 5, 20, 20], "category_id": n % 2} for n in range(3)]


@pytest.fixture
def folder(tmp_path):
    for split in ("train", "val"):
        write(tmp_path / "data", split, OBJECTS)
    return tmp_path / "data"


def run(folder: Path) -> int:
    return main(["check", str(folder), "--output", str(folder / "out")])


def test_sound_data_have_counts_and_a_sheet_per_split(folder, capsys):
    assert run(folder) == 0
    said = capsys.readouterr().out
    assert "3 images, 0 without annotations; 3 objects, 0 crowd regions" in said and "0 problems, 0 warnings" in said
    assert ["a", "2", "2", "2", "0", "0"] in [line.split() for line in said.splitlines()]
    assert all(Image.open(folder / "out" / f"{split}.png").width > 500 for split in ("train", "val"))


def change(folder: Path, split: str, edit) -> None:
    file = folder / f"annotations/{split}.json"
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


def types_of_fields(content):
    content["annotations"][0]["iscrowd"] = "0"
    content["annotations"][2]["bbox"] = [1, 2, 3]
    del content["images"][1]["width"]


def references_and_boxes(content):
    content["annotations"][0]["image_id"] = 77
    content["annotations"][1]["bbox"] = [9, 9, -3, 4]
    content["annotations"][2]["id"] = 1


def another_name(content):
    content["categories"][0]["name"] = "A"


def damaged_images(folder):
    (folder / "val/0.png").write_bytes((folder / "val/0.png").read_bytes()[:400])
    (folder / "val/1.png").unlink()


PROBLEMS = {
    "fields": (
        lambda folder: change(folder, "train", types_of_fields),
        ['annotation 0 has "iscrowd": "0"', 'annotation 2 has "bbox": [1, 2, 3]', 'image 1 (1.png) has no "width"'],
        3,
    ),
    "references and boxes": (
        lambda folder: change(folder, "train", references_and_boxes),
        ['has "image_id": 77', "may not be negative", "annotations id 1 occurs 2 times"],
        3,
    ),
    "a class that training does not have": (
        lambda folder: change(folder, "val", another_name),
        ["'A' (near: a)"],
        1,
    ),
    "images": (damaged_images, ["val/0.png: cannot be read", "val/1.png: image 1 of"], 2),
    "not JSON": (lambda folder: (folder / "annotations/val.json").write_text("{"), ["is not JSON"], 1),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_all_problems_are_listed_and_the_status_is_2(folder, capsys, case):
    damage, expected, number = PROBLEMS[case]
    if case == "not JSON":
        change(folder, "val", lambda content: None)
    damage(folder)
    try:
        status = run(folder)
    finally:
        captured = capsys.readouterr()
    said = captured.out + captured.err
    assert status == 2 and all(phrase in said for phrase in expected), said
    assert f"{number} problems" in said or case == "not JSON"


def copy_into_val(folder):
    (folder / "val/2.png").write_bytes((folder / "train/1.png").read_bytes())


def turn(folder):
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.open(folder / "train/0.png").save(folder / "train/0.png", exif=exif)


WARNINGS = {
    "an image in both splits": (copy_into_val, "1 images are in train and in val, byte by byte: 1.png = 2.png"),
    "upside down": (turn, "1 images are mirrored or turned upside down by their EXIF orientation (0.png)"),
    "corners": (
        lambda folder: change(folder, "train", lambda c: c["annotations"][0].update(bbox=[25, 5, 39, 25])),
        "1 of 3 boxes reach beyond their image",
    ),
    "a class without objects": (
        lambda folder: change(folder, "train", lambda c: c["categories"].append({"id": 9, "name": "c"})),
        "without objects: c",
    ),
    "too few classes in val": (
        lambda folder: change(
            folder, "val", lambda c: c.update(categories=c["categories"][:1], annotations=c["annotations"][:1])
        ),
        "lists 1 of 2 classes, matched by name; without b",
    ),
}


@pytest.mark.parametrize("case", WARNINGS)
def test_what_looks_wrong_is_a_warning(folder, capsys, case):
    change_folder, expected = WARNINGS[case]
    change_folder(folder)
    assert run(folder) == 0
    assert expected in capsys.readouterr().out


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_split_keeps_every_class_on_both_sides_and_all_else_as_it_is(tmp_path, capsys, share):
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.zeros(80, int), np.ones(12, int), np.full(4, 2), np.full(2, 3)])
    objects = [
        {"image_id": int(rng.integers(60)), "bbox": [1, 1, 9, 9], "category_id": int(label), "note": n}
        for n, label in enumerate(labels)
    ]
    objects[-1]["image_id"], objects[-2]["image_id"] = 0, 1
    content = write(tmp_path, "all", objects, images=60, names="abcd")
    file = tmp_path / "annotations/all.json"
    assert main(["split", str(file), "--val", str(share)]) == 0
    train, val = (json.loads((file.parent / f"{name}.json").read_text()) for name in ("train", "val"))
    assert sorted(one["id"] for one in train["images"] + val["images"]) == list(range(60))
    assert sorted(one["note"] for one in train["annotations"] + val["annotations"]) == list(range(len(labels)))
    for part in (train, val):
        assert part["categories"] == content["categories"]
        assert {one["category_id"] for one in part["annotations"]} == {0, 1, 2, 3}
        assert {one["image_id"] for one in part["annotations"]} <= {one["id"] for one in part["images"]}
    assert len(val["images"]) == pytest.approx(share * 60, abs=6)
    assert len(read_coco(file.parent / "val.json").image_ids) == len(val["images"])
    capsys.readouterr()
    assert main(["split", str(file), "--val", str(share)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_division_that_cannot_be_is_one_line(tmp_path, capsys):
    write(tmp_path, "all", OBJECTS[:1], images=1)
    file = str(tmp_path / "annotations/all.json")
    assert main(["split", file, "--val", "20"]) == 2 and main(["split", file]) == 2
    assert main(["check", str(tmp_path / "nowhere")]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3
    assert "--val 20: expected a share" in said[0] and "has one image" in said[1] and "no such folder" in said[2]
