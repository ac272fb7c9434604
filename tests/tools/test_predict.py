import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "predict.py"

MODEL = '''
import torch
from torch import nn
from crossstage.structures import Detections

class Finder(nn.Module):
    """Finds the red (class 0) and the green (class 1) rectangle of an image; the weights are their scores."""

    def __init__(self, num_classes=2, backbone=None):
        super().__init__()
        if backbone is not None and backbone.pretrained:
            raise RuntimeError("would download weights")
        self.num_classes = num_classes
        self.scores = nn.Parameter(torch.zeros(num_classes))

    def forward(self, batch):
        assert not self.training and batch.targets is not None
        found = []
        for pixels, (h, w), (height, width) in zip(batch.pixels, batch.sizes, batch.original_sizes):
            boxes, labels = [], []
            for label in (0, 1):
                rows, columns = torch.nonzero(pixels[label, :h, :w] > 128, as_tuple=True)
                if len(rows):
                    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                    boxes.append([float(v) * s for v, s in zip(box, [width / w, height / h] * 2)])
                    labels.append(label)
            labels = torch.tensor(labels, dtype=torch.int64)
            found.append(Detections(torch.tensor(boxes).reshape(-1, 4), self.scores[labels], labels))
        return found
'''

CONFIG = """
from omegaconf import OmegaConf
from crossstage.config import LazyCall as L
from crossstage.data.coco import CocoDetection
from crossstage.data.loader import TestLoader
from crossstage.data.transforms import Resize
from predict_stand_in import Finder

model = L(Finder)(num_classes=2)
dataloader = OmegaConf.create({"root": "nowhere"})
dataloader.test = L(TestLoader)(
    dataset=L(CocoDetection)(
        json_file="${dataloader.root}/instances.json", image_root="${dataloader.root}/images"
    ),
    transform=L(Resize)(short_edge=64, max_size=200),
)
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder with a config, its model's weights and three images with rectangles; and the working directory."""
    (tmp_path / "predict_stand_in.py").write_text(MODEL)
    (tmp_path / "config.py").write_text(CONFIG)
    weights = {"scores": torch.tensor([0.9, 0.4])}
    torch.save({"model": weights, "class_names": ["red box", "green box"]}, tmp_path / "weights.pth")
    torch.save({"model": weights}, tmp_path / "nameless.pth")
    (tmp_path / "images").mkdir()
    paint(tmp_path / "images" / "a.jpg", (320, 200), red=(80, 40, 200, 120), green=(240, 20, 300, 180))
    paint(tmp_path / "images" / "b.png", (100, 160), red=(10, 20, 50, 60))
    paint(tmp_path / "images" / "c.png", (64, 64))
    annotation = {"id": 1, "image_id": 5, "category_id": 3, "bbox": [10, 20, 40, 40]}
    content = {
        "images": [{"id": 5, "file_name": "b.png", "width": 100, "height": 160}],
        "categories": [{"id": 3, "name": "red"}, {"id": 8, "name": "green"}],
        "annotations": [annotation],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("predict_stand_in", None)


def paint(path, size, **rectangles):
    path.parent.mkdir(exist_ok=True)
    image = Image.new("RGB", size, (20, 20, 90))
    for colour, (x0, y0, x1, y1) in rectangles.items():
        ImageDraw.Draw(image).rectangle((x0, y0, x1 - 1, y1 - 1), fill=(230, 0, 0) if colour == "red" else (0, 230, 0))
    image.save(path, quality=95)


@pytest.fixture(scope="module")
def main():
    specification = importlib.util.spec_from_file_location("predict_tool", TOOL)
    tool = importlib.util.module_from_spec(specification)
    path = list(sys.path)
    sys.modules["predict_tool"] = tool
    specification.loader.exec_module(tool)
    yield tool.main
    sys.path[:] = path
    del sys.modules["predict_tool"]


def run(main, *arguments, weights="weights.pth", output="out"):
    return main(["--config-file", "config.py", "--weights", weights, "--output", output, *arguments])


def predictions(folder="out"):
    entries = json.loads(Path(folder, "predictions.json").read_text())
    return {Path(entry["file"]).name: entry for entry in entries}


def test_command_line_writes_pictures_predictions_and_a_contact_sheet(work):
    command = [sys.executable, str(TOOL), "--config-file", "config.py", "--weights", "weights.pth"]
    command += ["--input", "images/*", "--output", "out/pictures", "--threshold", "0.3", "--batch-size", "2"]
    environment = {**os.environ, "PYTHONPATH": str(work)}
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (work / "out/pictures").iterdir()) == [
        "a.jpg", "b.png", "c.png", "contact_sheet.png", "predictions.json",
    ]  # fmt: skip
    assert "3 detections" in done.stdout and "out/pictures/contact_sheet.png" in done.stdout
    found = predictions("out/pictures")
    assert [found[name]["width"] for name in ("a.jpg", "b.png", "c.png")] == [320, 100, 64]
    red, green = found["a.jpg"]["detections"]
    assert red["bbox"] == pytest.approx([80, 40, 200, 120], abs=4)
    assert green["bbox"] == pytest.approx([240, 20, 300, 180], abs=4)
    assert (red["class"], red["label"], red["score"]) == ("red box", 0, 0.9)
    assert (green["class"], green["score"]) == ("green box", 0.4)
    assert found["b.png"]["detections"][0]["bbox"] == pytest.approx([10, 20, 50, 60], abs=3)
    assert found["c.png"]["detections"] == []
    picture = Image.open(work / "out/pictures/b.png")
    assert picture.size == (400, 640)  # a small image is enlarged
    sheet = Image.open(work / "out/pictures/contact_sheet.png")
    assert sheet.width > 600


def test_help_says_how(main, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    said = capsys.readouterr().out
    assert ended.value.code == 0 and "examples:" in said and "contact_sheet.png" in said


def test_threshold_and_limit(work, main):
    assert run(main, "--input", "images", "--threshold", "0.5", "--limit", "1") == 0
    assert list(predictions()) == ["a.jpg"]
    assert [found["label"] for found in predictions()["a.jpg"]["detections"]] == [0]


@pytest.mark.parametrize(
    ("threshold", "classes"),  # the scores are 0.9 and 0.4
    [
        ("0.3", ["red box", "green box"]),
        ("0.3,green box=0.5", ["red box"]),
        ("0.95,green box=0.2", ["green box"]),
        ("red box=0.95", ["green box"]),
        ("red box=1,green box=1", []),
    ],
)
def test_a_threshold_by_class(work, main, threshold, classes):
    assert run(main, "--input", "images/a.jpg", "--threshold", threshold) == 0
    assert [found["class"] for found in predictions()["a.jpg"]["detections"]] == classes


def test_files_of_a_folder_that_are_no_images_are_told_and_hidden_ones_are_not_read(work, main, capsys):
    for name in ("a.HEIC", "b.heic", "c.gif", "._b.png", "notes"):
        (work / "images" / name).write_text("no image")
    assert run(main, "--input", "images") == 0
    assert list(predictions()) == ["a.jpg", "b.png", "c.png"]
    assert "images: files that are not read as images: 2 x .heic, 1 x " in capsys.readouterr().out


def test_class_names_come_from_the_checkpoint_then_the_dataset_then_are_numbers(work, main):
    def name(*options, **kwargs):
        assert run(main, "--input", "images/b.png", *options, **kwargs) == 0
        return predictions()["b.png"]["detections"][0]["class"]

    assert name("dataloader.root=.") == "red box"
    assert name("dataloader.root=.", weights="nameless.pth") == "red"
    assert name(weights="nameless.pth") == "0"


def test_overrides_may_stand_anywhere_and_no_pretrained_weights_are_fetched(work, main):
    mixed = [
        "dataloader.root=.",
        "--threshold",
        "0.5",
        "+model.backbone.pretrained=True",
        "--input",
        "images",
        "+train.a=1",
    ]
    assert run(main, *mixed, weights="nameless.pth") == 0
    assert predictions()["a.jpg"]["detections"][0]["class"] == "red"


def test_a_config_without_a_transform_sees_images_as_they_are(work, main):
    assert run(main, "dataloader.test.transform=null", "--input", "images/b.png") == 0
    assert predictions()["b.png"]["detections"][0]["bbox"] == [10, 20, 50, 60]


def test_averaged_weights_are_used_where_the_config_keeps_them(work, main):
    weights, averaged = {"scores": torch.tensor([0.9, 0.9])}, {"scores": torch.tensor([0.6, 0.7])}
    torch.save({"model": weights, "ema_state": averaged}, "both.pth")
    for option, score in (("+train.model_ema.enabled=True", 0.6), ("+train.model_ema.enabled=False", 0.9)):
        assert run(main, option, "--input", "images/b.png", weights="both.pth") == 0
        assert predictions()["b.png"]["detections"][0]["score"] == pytest.approx(score)


def test_the_sheet_shows_the_truth_where_it_is_known(work, main):
    assert run(main, "--input", "images/b.png", output="without") == 0
    assert run(main, "dataloader.root=.", "--input", "images/b.png", output="with") == 0
    without, with_truth = (Image.open(f"{folder}/contact_sheet.png") for folder in ("without", "with"))
    assert with_truth.width > 1.8 * without.width
    assert run(main, "dataloader.root=.", "--input", "images/a.jpg", output="other") == 0  # not of the dataset


def test_same_names_and_repeated_inputs(work, main):
    paint(work / "more" / "a.jpg", (64, 64), green=(8, 8, 40, 40))
    paint(work / "more" / "a.bmp", (64, 64), green=(8, 8, 40, 40))
    paint(work / "more" / "b.bmp", (64, 64))
    paint(work / "more" / "contact_sheet.png", (64, 64))
    assert run(main, "--input", "images", "more", "images/a.jpg", "images/*.jpg") == 0
    entries = json.loads(Path("out/predictions.json").read_text())
    assert [(entry["file"], entry["picture"]) for entry in entries] == [
        ("images/a.jpg", "a.jpg"),
        ("images/b.png", "b.png"),
        ("images/c.png", "c.png"),
        ("more/a.bmp", "a.png"),
        ("more/a.jpg", "a_2.jpg"),
        ("more/b.bmp", "b_2.png"),
        ("more/contact_sheet.png", "contact_sheet_2.png"),
    ]
    assert Image.open("out/a_2.jpg").size != Image.open("out/a.jpg").size


def test_images_turned_by_exif_are_upright(work, main):
    image = Image.open("images/b.png").transpose(Image.Transpose.ROTATE_90)
    exif = image.getexif()
    exif[0x0112] = 6  # turn by 90 degrees to the right
    image.save("images/turned.jpg", exif=exif, quality=95)
    assert run(main, "--input", "images/turned.jpg") == 0
    entry = predictions()["turned.jpg"]
    assert (entry["width"], entry["height"]) == (100, 160)
    assert entry["detections"][0]["bbox"] == pytest.approx([10, 20, 50, 60], abs=3)


def test_unreadable_images_are_named_and_the_others_written(work, main, capsys):
    (work / "images" / "broken.jpg").write_bytes((work / "images" / "a.jpg").read_bytes()[:700])
    (work / "images" / "empty.png").write_bytes(b"")
    assert run(main, "--input", "images", "--batch-size", "8") == 2
    said = capsys.readouterr().err.strip()
    assert said.count("\n") == 0 and "2 of 5 images" in said
    assert "images/broken.jpg" in said and "images/empty.png" in said
    assert list(predictions()) == ["a.jpg", "b.png", "c.png"]


def annotate(**changes):
    """Change the annotations of images/b.png: of its image, or of the whole content."""
    content = json.loads(Path("instances.json").read_text())
    content["images"][0].update({key: value for key, value in changes.items() if key not in content})
    content.update({key: value for key, value in changes.items() if key in content})
    Path("instances.json").write_text(json.dumps(content))


BAD_ANNOTATIONS = {
    "another width": ({"width": 99}, "b.png: is 100 x 160 pixels, but image 5"),
    "no width": ({"width": None}, 'image 5 (b.png) has "width": null'),
    "no images": ({"images": []}, '"images" is empty'),
}


@pytest.mark.parametrize("case", BAD_ANNOTATIONS)
def test_wrong_annotations_cost_only_the_panel_of_their_picture(work, main, capsys, case):
    changes, message = BAD_ANNOTATIONS[case]
    annotate(**changes)
    assert run(main, "dataloader.root=.", "--input", "images") == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "annotations are not shown" in said[0] and message in said[0]
    assert list(predictions()) == ["a.jpg", "b.png", "c.png"] and Path("out/contact_sheet.png").is_file()


def test_a_missing_folder_of_data_does_not_matter_where_weights_name_the_classes(work, main, capsys):
    Path("config.py").write_text(CONFIG.replace('{"root": "nowhere"}', '{"root": "nowhere", "data": "nowhere"}'))
    assert run(main, "--input", "images") == 2
    assert "annotations are not shown: dataloader.data=nowhere: no such folder" in capsys.readouterr().err
    assert list(predictions()) == ["a.jpg", "b.png", "c.png"]


def test_the_weights_decide_the_number_of_classes(work, main):
    weights = {"scores": torch.tensor([0.9, 0.4, 0.1])}
    torch.save({"model": weights, "class_names": ["x", "y", "z"], "category_ids": [4, 9, None]}, "three.pth")
    assert run(main, "--input", "images/a.jpg", weights="three.pth") == 0
    found = predictions()["a.jpg"]["detections"]
    assert [(one["class"], one["category_id"]) for one in found] == [("x", 4), ("y", 9)]


def test_category_ids_come_from_the_checkpoint_then_the_dataset_then_are_null(work, main):
    def category(*options, **kwargs):
        assert run(main, "--input", "images/b.png", *options, **kwargs) == 0
        return predictions()["b.png"]["detections"][0]["category_id"]

    assert category("dataloader.root=.", weights="nameless.pth") == 3
    assert category(weights="nameless.pth") is None
    assert category("dataloader.root=.") is None, "these weights have other class names than the dataset"


def test_ctrl_c_leaves_what_is_done(work, main, capsys):
    stop = MODEL.replace("found = []", "found = []\n        if batch.pixels[0, 0].max() < 128: raise KeyboardInterrupt")
    (work / "predict_stand_in.py").write_text(stop)  # images/c.png, the third, has no red
    assert run(main, "--input", "images") == 130
    captured = capsys.readouterr()
    assert "in 2 of 3 images" in captured.out and "interrupted" in captured.err
    assert list(predictions()) == ["a.jpg", "b.png"] and Path("out/contact_sheet.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "nothing/*.jpg"], "--input nothing/*.jpg: no images matched"),
        (["--input", "images", "empty_folder"], "--input empty_folder: no images matched"),
        (["--input", "images", "--weights", "lost.pth"], "lost.pth: no such file"),
        (["--input", "images", "--weights", "config.py"], "config.py"),
        (["--input", "images", "--config-file", "lost.py"], "lost.py"),
        (["--input", "~nobody/x.jpg"], "--input ~nobody/x.jpg: no images matched"),
        (["~dataloader.test", "--input", "images"], "config.py: expected the config of a detector"),
        (["--input", "images", "--output", "config.py/out"], "--output config.py/out: not writable"),
        (["--input", "images", "--output", "images"], "--output images: holds the input images/a.jpg itself"),
        (["--input", "images", "--threshold", "30"], "--threshold 30: expected a score from 0 to 1"),
        (["--input", "images", "--threshold", "0.3,red box"], "--threshold red box: expected a score from 0 to 1"),
        (
            ["--input", "images", "--threshold", "red=0.5"],
            "--threshold red=0.5: there is no such class (near: red box; there",
        ),
        (["--input", "images", "--threshold", "0.1,0.2"], "--threshold 0.1,0.2: has two scores for all classes; exp"),
        (["--input", "images", "--threshold", "red box=0.1,red box=1"], "has two scores for red box; expected one"),
        (["--input", "images", "--threshold", "x=1"], "no such class (near: none; there are red box, green box)"),
        (["--input", "images", "--limit", "0"], "--limit 0: expected at least 1"),
        (["--input", "images", "--device", "warp:9"], "--device warp:9: not available"),
        (["--input", "images", "model.num_clases=3"], "model.num_clases"),
        (["--input", "images", "model.num_classes=3"], "scores 2 for 3"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(work, main, capsys, arguments, message):
    (work / "empty_folder").mkdir()
    before = {path: path.read_bytes() for path in (work / "images").iterdir()}
    assert run(main, *arguments) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ") and "\n" not in said and message in said
    assert {path: path.read_bytes() for path in (work / "images").iterdir()} == before


def test_an_error_of_ours_keeps_its_traceback(work, main):
    (work / "predict_stand_in.py").write_text(MODEL.replace("found = []", "raise ZeroDivisionError"))
    with pytest.raises(ZeroDivisionError):
        run(main, "--input", "images")
