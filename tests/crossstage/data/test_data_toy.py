"""The generated dataset: deterministic, in COCO's layout, never written over anything."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossstage.data.coco import CocoDetection
from crossstage.data.toy import ToySettings, generate, write_toy
from crossstage.data.toy.outlines import Stencil
from crossstage.data.toy.scenes import PRESETS, Canvas, draw_scene
from crossstage.errors import InputError


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def arguments(output: Path, **options: object) -> list[str]:
    options = {"output": output, "train": 3, "val": 2, "seed": 5, **options}
    return [part for name, value in options.items() for part in (f"--{name}", str(value))]


@pytest.mark.parametrize("preset", ["easy", "hard"])
def test_the_same_settings_write_the_same_bytes(tmp_path, preset):
    settings = ToySettings(train=4, val=2, seed=3, preset=preset, size=PRESETS[preset].size)
    (tmp_path / "b").mkdir()  # an empty folder may be filled
    for name in ("a", "b"):
        assert write_toy(tmp_path / name, settings)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "a" / "annotations").stat().st_mode, "others may read it"


def test_a_larger_dataset_begins_with_the_smaller_one_and_seeds_differ(tmp_path):
    for name, train, seed, workers in (("small", 3, 0, 1), ("large", 201, 0, 2), ("other", 3, 1, 1)):
        write_toy(tmp_path / name, ToySettings(train=train, val=1, seed=seed, size=64), workers=workers)
    small, large, other = (contents(tmp_path / name) for name in ("small", "large", "other"))
    pictures = [name for name in small if name.endswith(".jpg")]
    assert len(pictures) == 4
    assert all(small[name] == large[name] and small[name] != other[name] for name in pictures)
    first, second = (json.loads(files["annotations/instances_train2017.json"]) for files in (small, large))
    assert first["annotations"] == second["annotations"][: len(first["annotations"])]


@pytest.mark.parametrize("preset", ["easy", "hard"])
def test_layout_and_ids_are_those_of_coco(tmp_path, preset):
    write_toy(tmp_path / "data", ToySettings(train=12, val=5, preset=preset, size=PRESETS[preset].size))
    seen = {"images": Counter(), "annotations": Counter()}
    for split, number in (("train", 12), ("val", 5)):
        content = json.loads((tmp_path / f"data/annotations/instances_{split}2017.json").read_text())
        ids = [category["id"] for category in content["categories"]]
        assert len(ids) >= 8 and ids != list(range(ids[0], ids[0] + len(ids))), "ids must not be contiguous"
        assert len(content["images"]) == number
        sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
        for image in content["images"]:
            with Image.open(tmp_path / f"data/{split}2017" / image["file_name"]) as picture:
                assert picture.format == "JPEG" and picture.size == sizes[image["id"]]
        for annotation in content["annotations"]:
            x, y, width, height = annotation["bbox"]
            image_width, image_height = sizes[annotation["image_id"]]
            assert min(x, y) >= 0 and x + width <= image_width and y + height <= image_height
            assert 0 < annotation["area"] <= width * height
            assert annotation["category_id"] in ids and annotation["iscrowd"] in (0, 1)
        for name, counter in seen.items():
            counter.update(record["id"] for record in content[name])
        CocoDetection(
            tmp_path / f"data/annotations/instances_{split}2017.json", tmp_path / f"data/{split}2017"
        ).preflight()
    assert all(count == 1 for counter in seen.values() for count in counter.values()), "ids are unique over splits"


def test_hard_spans_the_scales_of_coco_and_easy_has_few_objects():
    scenes = {
        name: [draw_scene(np.random.default_rng([1, 0, i]), preset)[1] for i in range(60)]
        for name, preset in PRESETS.items()
    }
    areas = np.array([item.area for objects in scenes["hard"] for item in objects])
    assert (areas < 32**2).mean() > 0.2 and (areas > 96**2).mean() > 0.05
    counts = [len(objects) for objects in scenes["hard"]]
    assert min(counts) == 0 and 15 <= max(counts) <= 20
    assert any(item.is_crowd for objects in scenes["hard"] for item in objects)
    assert {len(objects) for objects in scenes["easy"]} == {2, 3, 4, 5, 6}
    assert len({item.class_index for objects in scenes["easy"] for item in objects}) == 8


def test_boxes_are_those_of_the_visible_pixels_and_nothing_is_hidden_too_much():
    canvas = Canvas(np.zeros((40, 50, 3), np.float32), visible=0.5)
    white, red = np.full((20, 20, 3), 255.0, np.float32), np.full((20, 20, 3), (255.0, 0, 0), np.float32)
    opaque = np.ones((20, 20), np.float32)
    assert canvas.paint(Stencil(opaque, left=10, top=5), white, annotated=True)
    assert canvas.visible_box(1) == ((10.0, 5.0, 20.0, 20.0), 400.0)
    assert not canvas.paint(Stencil(opaque, left=12, top=5), red, annotated=True), "it would hide 90 %"
    assert (canvas.pixels[..., 1] == canvas.pixels[..., 0]).all(), "a refused stencil leaves no trace"
    assert canvas.paint(Stencil(opaque, left=22, top=5), red, annotated=True)
    assert canvas.visible_box(1) == ((10.0, 5.0, 12.0, 20.0), 240.0)
    assert not canvas.paint(Stencil(opaque, left=45, top=5), red, annotated=True), "mostly outside of the image"


def test_the_command_line_writes_once_and_then_does_nothing(tmp_path):
    output = tmp_path / "deep" / "data"
    command = [sys.executable, "-m", "crossstage.data.toy", *arguments(output, size=64)]
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    assert "written" in first.stdout and "train: 3 images" in first.stderr
    assert generate.main(arguments(output, size=64)) == 0
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before
    assert [path.name for path in output.parent.iterdir()] == ["data"], "no partial folder is left"


def test_a_folder_that_holds_something_else_is_never_changed(tmp_path, capsys):
    foreign, own, file = tmp_path / "foreign", tmp_path / "own", tmp_path / "file"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work")
    file.write_text("a file")
    assert generate.main(arguments(own, size=64)) == 0
    before = contents(tmp_path)
    capsys.readouterr()
    cases = [
        (arguments(foreign), "foreign: exists and is not a dataset of this generator"),
        (arguments(file), "file: exists and is not a dataset of this generator"),
        (arguments(file / "below"), "below: cannot be written"),
        (arguments(own, size=64, seed=6), "generated with seed=5; remove the folder or choose another --output"),
        (arguments(tmp_path / "new", train=0), "--train 0: expected a number of at least 1"),
        (arguments(tmp_path / "new", size=8), "--size 8: expected a number of at least 48"),
    ]
    for given, message in cases:
        assert generate.main(given) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert contents(tmp_path) == before


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(generate, "_write_image", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_toy(tmp_path / "data", ToySettings(train=2, val=1))
    assert generate.main(arguments(tmp_path / "data")) == 130
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    def fail(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(generate, "_write_image", fail)
    assert generate.main(arguments(tmp_path / "data")) == 2
    assert "data: writing failed (No space left on device)" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_unknown_preset_is_named():
    with pytest.raises(InputError, match="--preset medium: expected one of easy, hard"):
        ToySettings(train=1, val=1, preset="medium")
