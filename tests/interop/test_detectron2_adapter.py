"""crossstage.interop.detectron2 with stand-ins for detectron2's structures and catalogue; runs without detectron2."""

import sys
import types
from collections import UserDict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from crossstage.errors import InputError
from crossstage.interop.detectron2 import Detectron2Model, coco_content, image_batch, registered_dataset
from crossstage.structures import Detections, ImageBatch, Losses


class Catalog(UserDict):
    """Names and what they stand for."""

    def list(self) -> list[str]:
        return list(self)


class Metadata(SimpleNamespace):
    """Attributes that may be absent."""

    def get(self, name: str, default: Any = None) -> Any:
        return getattr(self, name, default)


class BoxMode:
    """x0, y0, x1, y1 and x, y, width, height."""

    XYXY_ABS, XYWH_ABS, XYXY_REL = 0, 1, 2

    @staticmethod
    def convert(box: list[float], source: int, target: int) -> list[float]:
        return box if source == target else [box[0], box[1], box[2] - box[0], box[3] - box[1]]


@pytest.fixture(autouse=True)
def detectron2(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    structures, data = types.ModuleType("detectron2.structures"), types.ModuleType("detectron2.data")
    structures.Boxes = lambda tensor: SimpleNamespace(tensor=tensor)
    structures.Instances = lambda size, **fields: SimpleNamespace(image_size=size, **fields)
    structures.BoxMode = BoxMode
    data.DatasetCatalog, data.MetadataCatalog = Catalog(), Catalog()
    for module in (types.ModuleType("detectron2"), structures, data):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return data


class Spy(nn.Module):
    """Keeps its batch; finds one object at the lower right of each image."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, batch: ImageBatch) -> Any:
        self.batch = batch
        if self.training:
            return Losses.of({"loss_class": self.weight})
        return [
            Detections(torch.tensor([[w / 2, h / 2, w, h]]), torch.tensor([0.5]), torch.tensor([3]))
            for h, w in batch.original_sizes
        ]


ORIGINAL = {"height": 16, "width": 60}


def one(height: int, width: int, boxes: Tensor | None = None) -> dict[str, Any]:
    pixels = torch.arange(3, dtype=torch.uint8)[:, None, None].expand(3, height, width)
    given = {} if boxes is None else {"instances": SimpleNamespace(gt_boxes=SimpleNamespace(tensor=boxes))}
    if boxes is not None:
        given["instances"].gt_classes = torch.arange(len(boxes))
    return {"image": pixels, **given}


def test_a_training_batch_is_padded_and_its_boxes_normalised_by_their_own_image():
    inputs = [one(10, 20, torch.tensor([[0.0, 0.0, 20.0, 5.0]])), one(8, 30, torch.zeros(0, 4)) | ORIGINAL]
    model = Detectron2Model(Spy())
    assert list(model.train()(inputs)) == ["loss_class"]
    batch = model.detector.batch
    assert batch.pixels.shape == (2, 3, 10, 30) and batch.sizes == ((10, 20), (8, 30))
    assert batch.original_sizes == ((10, 20), (16, 60))
    assert batch.mask[0, :, 20:].all() and not batch.mask[0, :, :20].any() and batch.mask[1, 8:].all()
    assert batch.targets[0].boxes.tolist() == [[0.5, 0.25, 1.0, 0.5]]
    assert [target.labels.tolist() for target in batch.targets] == [[0], []]


def test_detections_come_as_instances_of_the_original_image():
    model = Detectron2Model(Spy()).eval()
    first, second = model([one(10, 20), one(8, 30) | ORIGINAL])
    assert model.detector.batch.targets is None
    assert first["instances"].image_size == (10, 20)
    assert second["instances"].pred_boxes.tensor.tolist() == [[30, 8, 60, 16]]
    assert second["instances"].scores.tolist() == [0.5] and second["instances"].pred_classes.tolist() == [3]


@pytest.mark.parametrize(("image_format", "order"), [("RGB", [0, 1, 2]), ("BGR", [2, 1, 0])])
def test_channels_arrive_as_red_green_blue(image_format, order):
    pixels = image_batch([one(4, 4)], image_format=image_format).pixels
    assert pixels[0, :, 0, 0].tolist() == order


def test_whole_floats_are_the_same_pixels():
    """DefaultPredictor and detrex's demo convert their images to float32."""
    inputs = [one(4, 6)]
    floats = [one(4, 6) | {"image": inputs[0]["image"].float() * 100}]
    assert torch.equal(image_batch(floats).pixels, image_batch(inputs).pixels * 100)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: image_batch([one(4, 4) | {"image": torch.full((3, 4, 4), 0.5)}]), "torch.float32 with values other"),
        (lambda: image_batch([one(4, 4) | {"image": torch.full((3, 4, 4), -1.0)}]), "whole numbers from 0 to 255"),
        (lambda: image_batch([one(4, 4) | {"image": torch.zeros(4, 4)}]), "3 channels"),
        (lambda: image_batch([one(4, 4, torch.zeros(1, 5))]), "rotated"),
        (lambda: Detectron2Model(Spy(), image_format="YUV"), "RGB, BGR"),
        (lambda: registered_dataset("nowhere"), "nowhere.*has: none"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def records(folder: Any) -> list[dict[str, Any]]:
    Image.new("RGB", (20, 10)).save(folder / "a.png")
    boxes = [
        {"bbox": [1, 2, 11, 8], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1},
        {"bbox": [1, 2, 3, 4], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0},
        {"bbox": [0, 0, 9, 9], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "iscrowd": 1},
    ]
    return [{"file_name": str(folder / "a.png"), "height": 10, "width": 20, "image_id": "a", "annotations": boxes}]


def test_a_registered_function_becomes_a_dataset_by_way_of_a_file(detectron2, tmp_path):
    detectron2.DatasetCatalog["mine"] = records(tmp_path)
    detectron2.MetadataCatalog["mine"] = Metadata(thing_classes=["cat", "dog"])
    with pytest.raises(InputError, match="json_file"):
        registered_dataset("mine")
    dataset = registered_dataset("mine", json_file=str(tmp_path / "new/mine.json"))
    sample = dataset[0]
    assert dataset.class_names == ["cat", "dog"]
    assert sample.boxes.tolist() == [[1, 2, 11, 8], [1, 2, 4, 6]] and sample.labels.tolist() == [1, 0]
    detectron2.MetadataCatalog["mine"] = Metadata(json_file=dataset.json_file, image_root="/")
    assert registered_dataset("mine")[0].labels.tolist() == [1, 0]


def test_boxes_that_we_cannot_use_name_dataset_and_file(tmp_path):
    for change in ({"bbox_mode": BoxMode.XYXY_REL}, {"category_id": 2}):
        wrong = records(tmp_path)
        wrong[0]["annotations"][0] |= change
        with pytest.raises(InputError, match=r"mine: .*a\.png"):
            coco_content(wrong, class_names=["cat", "dog"], dataset="mine")
