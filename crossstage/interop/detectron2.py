"""Our detectors in detectron2's trainers and evaluators, and detectron2's registered datasets in our trainer.

detectron2 has its own forms of a batch (`list[dict]`), of objects and detections (`Instances`) and of a dataset (a
name in `DatasetCatalog`). Only this module converts them; the detector and the training loop are the usual ones.
detectron2 itself is imported when something is built.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from crossstage.config import LazyConfig, find_config, instantiate
from crossstage.data.batch import Sample, bounding_boxes, collate
from crossstage.data.coco import CocoDetection
from crossstage.errors import InputError
from crossstage.files import write_text
from crossstage.structures import Detections, ImageBatch

INSTALL = "detectron2 0.6 or newer; its guide: https://detectron2.readthedocs.io/en/latest/tutorials/install.html"
FORMATS = ("RGB", "BGR")


class MissingPackageError(InputError, ImportError):
    """The other library that an interop module needs is not installed."""


def native_model(config_file: str, *, overrides: Sequence[str] = (), image_format: str = "RGB") -> Detectron2Model:
    """The model of one of our config files, for a config of detectron2: `model = L(native_model)(config_file=...)`.

    Our own `instantiate` builds the model, because a decoder needs the node of its layer, which detectron2's
    `instantiate` would build.

    Args:
        config_file: a config file, or the short name of one of ours, which is found from any folder
            ("stage_interactor_r50_12ep").
        overrides: as on the command line, e.g. ["model.num_classes=3"].
        image_format: the order of the channels in detectron2's mapper, "RGB" or "BGR".

    Returns:
        The model, which is called as detectron2 calls a model.

    Raises:
        InputError: for a wrong file, key or value.
    """
    config = LazyConfig.apply_overrides(LazyConfig.load(find_config(config_file)), list(overrides))
    return Detectron2Model(instantiate(config.model), image_format=image_format)


class Detectron2Model(nn.Module):
    """One of our detectors with the interface of a detectron2 model.

    Args:
        detector: takes an ImageBatch; returns Losses in training and Detections in evaluation.
        image_format: the order of the channels in the images of detectron2's mapper, "RGB" or "BGR".

    Raises:
        InputError: for another image format.
        MissingPackageError: if detectron2 is not installed.
    """

    def __init__(self, detector: nn.Module, *, image_format: str = "RGB") -> None:
        super().__init__()
        if image_format not in FORMATS:
            raise InputError(f"image_format={image_format!r}: expected one of {', '.join(FORMATS)}")
        _detectron2("structures")
        self.detector, self.image_format = detector, image_format

    def forward(self, batched_inputs: Sequence[Mapping[str, Any]]) -> dict[str, Tensor] | list[dict[str, Any]]:
        """Compute losses in training, or detections in evaluation.

        Args:
            batched_inputs: one dict per image, with `image`, uint8 or whole floats [3, H, W], and, in training,
                `instances` with `gt_boxes` and `gt_classes`. Detections are in pixels of an image of size `height`,
                `width`, or of `image` if these keys are absent.

        Returns:
            In training: weighted losses by name. In evaluation: `{"instances": Instances}` per image.
        """
        device = next(self.detector.parameters()).device
        batch = image_batch(batched_inputs, image_format=self.image_format).to(device, non_blocking=True)
        if self.training:
            return dict(self.detector(batch).terms)
        found = zip(self.detector(batch), batch.original_sizes, strict=True)
        return [{"instances": as_instances(detections, size)} for detections, size in found]


def image_batch(batched_inputs: Sequence[Mapping[str, Any]], *, image_format: str = "RGB") -> ImageBatch:
    """Convert a batch of detectron2 into ours, on the CPU. Without `instances` it has no targets.

    The image ids are positions in the batch, because detectron2's evaluators read the ids from their own inputs.

    Args:
        batched_inputs: see `Detectron2Model.forward`.
        image_format: the order of the channels, "RGB" or "BGR".

    Returns:
        The batch.

    Raises:
        InputError: for an image that does not hold whole numbers from 0 to 255, and for rotated boxes.
    """
    annotated = all("instances" in one for one in batched_inputs)
    samples = [
        _sample(one, index, annotated=annotated, image_format=image_format) for index, one in enumerate(batched_inputs)
    ]
    batch = collate(samples)
    return batch if annotated else replace(batch, targets=None)


def _sample(one: Mapping[str, Any], index: int, *, annotated: bool, image_format: str) -> Sample:
    pixels = _as_uint8(one["image"].cpu(), str(one.get("file_name", index)))
    pixels = pixels if image_format == "RGB" else pixels.flip(0)
    size = (pixels.shape[-2], pixels.shape[-1])
    boxes, labels = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    if annotated:
        boxes, labels = one["instances"].gt_boxes.tensor.cpu().float(), one["instances"].gt_classes.cpu()
        if boxes.shape[-1] != 4:
            raise InputError(f"image {one.get('file_name', index)}: has rotated boxes; expected x0, y0, x1, y1")
    original_size = (one.get("height", size[0]), one.get("width", size[1]))
    return Sample(pixels, bounding_boxes(boxes, size), labels.long(), image_id=index, original_size=original_size)


def _as_uint8(pixels: Tensor, name: str) -> Tensor:
    """Convert the floats of detectron2's DefaultPredictor and detrex's demo, which are whole numbers from 0 to 255."""
    if pixels.ndim != 3 or len(pixels) != 3:
        raise InputError(f"image {name}: has shape {list(pixels.shape)}; expected 3 channels, [3, H, W]")
    whole = pixels.to(torch.uint8)
    if pixels.dtype != torch.uint8 and not torch.equal(whole.to(pixels.dtype), pixels):
        raise InputError(
            f"image {name}: {pixels.dtype} with values other than the whole numbers from 0 to 255; expected the pixels "
            "of detectron2's or detrex's mapper, which the model normalises itself"
        )
    return whole


def as_instances(detections: Detections, size: tuple[int, int]) -> Any:
    """Convert detections into detectron2's Instances (`pred_boxes`, `scores`, `pred_classes`).

    Args:
        detections: the detections of one image.
        size: (height, width) of the image.

    Returns:
        The Instances.
    """
    structures = _detectron2("structures")
    return structures.Instances(
        size,
        pred_boxes=structures.Boxes(detections.boxes_xyxy),
        scores=detections.scores,
        pred_classes=detections.labels,
    )


def registered_dataset(name: str, *, keep_empty: bool = True, json_file: str | None = None) -> CocoDetection:
    """A dataset of detectron2's DatasetCatalog as ours; in a config: `dataset=L(registered_dataset)(name=...)`.

    Args:
        name: the registered name.
        keep_empty: whether images without a box stay in the dataset.
        json_file: a COCO JSON to write the records to; our CocoEvaluator reads it too. None if the dataset was
            registered from a COCO JSON, which is then read directly.

    Returns:
        The dataset.

    Raises:
        InputError: for an unknown name, records that are not boxes, or a missing `json_file`.
    """
    data = _detectron2("data")
    if name not in data.DatasetCatalog:
        known = ", ".join(sorted(data.DatasetCatalog.list())) or "none"
        raise InputError(f"name={name!r}: not in detectron2's DatasetCatalog, which has: {known:.400}")
    metadata = data.MetadataCatalog.get(name)
    if json_file is None:
        if not hasattr(metadata, "json_file"):
            raise InputError(f"{name}: was not registered from a COCO JSON; give json_file=FILE to write its boxes to")
        return CocoDetection(metadata.json_file, metadata.image_root, keep_empty=keep_empty)
    records = data.DatasetCatalog.get(name)
    # Users may register a dataset without `thing_classes`; the error then comes from `coco_content`.
    content = coco_content(records, class_names=list(metadata.get("thing_classes", [])), dataset=name)
    Path(json_file).parent.mkdir(parents=True, exist_ok=True)
    write_text(Path(json_file), json.dumps(content))
    return CocoDetection(json_file, "/", keep_empty=keep_empty)


def coco_content(records: Sequence[Mapping[str, Any]], *, class_names: Sequence[str], dataset: str) -> dict[str, Any]:
    """Convert detectron2's records into the content of a COCO instances JSON.

    Args:
        records: detectron2's records.
        class_names: name of each class, by class index.
        dataset: name of the dataset, for messages.

    Returns:
        The content; category ids are class indices, and paths are absolute.

    Raises:
        InputError: for a class without a name, or a box that is not axis-aligned and absolute; names the record.
    """
    structures = _detectron2("structures")
    absolute = (structures.BoxMode.XYXY_ABS, structures.BoxMode.XYWH_ABS)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, record in enumerate(records):
        path = str(Path(record["file_name"]).resolve())
        images.append({"id": number, "file_name": path, "height": record["height"], "width": record["width"]})
        for box in record.get("annotations", ()):
            if box["bbox_mode"] not in absolute or not 0 <= box["category_id"] < len(class_names):
                raise InputError(
                    f"{dataset}: {path} has a box of class {box['category_id']} in {box['bbox_mode']}; expected a "
                    f"class below {len(class_names)} (thing_classes) in XYXY_ABS or XYWH_ABS"
                )
            corners = structures.BoxMode.convert(list(box["bbox"]), box["bbox_mode"], structures.BoxMode.XYWH_ABS)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(box["category_id"]),
                    "bbox": [float(value) for value in corners],
                    "iscrowd": int(box.get("iscrowd", 0)),
                }
            )
    categories = [{"id": index, "name": class_name} for index, class_name in enumerate(class_names)]
    return {"images": images, "categories": categories, "annotations": annotations}


def _detectron2(part: str) -> ModuleType:
    """A package of detectron2. Raises MissingPackageError, which says what to install."""
    try:
        return importlib.import_module(f"detectron2.{part}")
    except ImportError as error:
        raise MissingPackageError(f"crossstage.interop.detectron2 needs {INSTALL} ({error})") from error
