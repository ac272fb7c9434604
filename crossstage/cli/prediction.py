"""The work of `crossstage predict`: finds images, detects, draws and writes. Read `predict` first."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from rich.console import Console
from torch import Tensor, nn

from crossstage.checkpoints.load import class_names_of, load_model, local_path
from crossstage.cli.picture_files import SHEET_FILE, find_images, picture_names, prepare_output, save_picture
from crossstage.cli.thresholds import Thresholds, parse_thresholds
from crossstage.config import LazyConfig, find_config, instantiate
from crossstage.data.batch import Sample, bounding_boxes, collate
from crossstage.data.coco import CocoDetection
from crossstage.data.own_data import settle_data
from crossstage.data.pixels import read_image
from crossstage.engine.log import RunLog
from crossstage.errors import InputError
from crossstage.evaluation.loop import tracked
from crossstage.files import write_text
from crossstage.structures import Detections
from crossstage.visualize import class_name, contact_sheet, draw_detections, draw_targets, side_by_side, with_caption

ON_SHEET = 12
PREDICTIONS_FILE = "predictions.json"


def predict(args: argparse.Namespace) -> None:
    """Do everything from the command line to the files. Raises InputError, at the end if images are unreadable."""
    with RunLog() as log:
        predict_all(args, log.console)


def predict_all(args: argparse.Namespace, console: Console) -> None:
    """The work of `predict`; the console shows the progress."""
    check_numbers(args)
    cfg = LazyConfig.apply_overrides(LazyConfig.load(find_config(args.config_file)), args.opts)
    files = find_images(args.input)[: args.limit]
    output = Path(args.output)
    names = picture_names(files)
    prepare_output(output, files, names)
    device = choose_device(args.device)
    work, thresholds = Work(len(files)), parse_thresholds(args.threshold)
    truth = settle_classes(cfg, args, work)
    detector = load_detector(cfg, args, truth, device)
    thresholds.check(detector.class_names)
    batches = [files[start : start + args.batch_size] for start in range(0, len(files), args.batch_size)]
    try:
        with closing(tracked(batches, console, what="predict")) as progress:
            for file, image, detections in detect(detector, progress, work.unreadable):
                detections = reaching(detections, thresholds.of_labels(detections.labels, detector.class_names))
                picture = draw_detections(image, detections, detector.class_names, threshold=0)
                save_picture(picture, output / names[file])
                work.records.append(record(file, names[file], image, detections, detector))
                if len(work.panels) < ON_SHEET:
                    work.panels.append(panel(file, image, picture, truth, work))
    finally:  # an interruption or an error loses nothing that is done
        work.write(output, thresholds)
    work.check()


@dataclass
class Work:
    """What is done so far, of `total` images, and what was left out, as messages."""

    total: int
    records: list[dict[str, Any]] = field(default_factory=list)
    panels: list[Image.Image] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    without_annotations: list[str] = field(default_factory=list)

    def write(self, output: Path, thresholds: Thresholds) -> None:
        """Write predictions.json and the contact sheet, and print where they are."""
        lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in self.records)
        write_text(output / PREDICTIONS_FILE, f"[\n{lines}\n]\n")
        found = sum(len(entry["detections"]) for entry in self.records)
        of_all = f" of {self.total}" if len(self.records) + len(self.unreadable) < self.total else ""
        print(f"{found} detections with a score of at least {thresholds} in {len(self.records)}{of_all} images")
        print(f"  pictures     {output}\n  detections   {output / PREDICTIONS_FILE}")
        if self.panels:
            save_picture(contact_sheet(self.panels), output / SHEET_FILE)
            print(f"  at a glance  {output / SHEET_FILE}")

    def check(self) -> None:
        """Raise InputError if images, or the annotations next to them, were left out."""
        left_out = []
        if self.unreadable:
            left_out.append(
                f"{len(self.unreadable)} of {self.total} images were left out: {'; '.join(self.unreadable)}"
            )
        if self.without_annotations:
            left_out.append(f"annotations are not shown: {'; '.join(self.without_annotations)}")
        if left_out:
            raise InputError("; ".join(left_out))


def check_numbers(args: argparse.Namespace) -> None:
    """Raise InputError for an impossible number."""
    parse_thresholds(args.threshold)
    for name in ("limit", "batch_size"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} {value}: expected at least 1")


def choose_device(name: str | None) -> torch.device:
    """The device of this name; None means a GPU if there is one. Raises InputError if it is not available."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name}: not available on this machine; expected cpu, cuda or cuda:N") from error
    return device


class Truth:
    """The annotations of a test dataset; empty without a dataset."""

    def __init__(self, dataset: Any = None) -> None:
        self.dataset = dataset
        self._indices: dict[str, int] = {}
        if isinstance(dataset, CocoDetection):
            self._indices = {os.path.realpath(dataset.path(index)): index for index in range(len(dataset))}

    @property
    def class_names(self) -> list[str]:
        """The class names of the dataset, or an empty list."""
        return list(getattr(self.dataset, "class_names", ()))

    @property
    def category_ids(self) -> list[int | None]:
        """The category ids of the classes, or an empty list."""
        return list(getattr(self.dataset, "category_ids", ()))

    def of(self, file: Path) -> Sample | None:
        """The image with its boxes, or None if the dataset does not contain it. Raises InputError if it is wrong."""
        index = self._indices.get(os.path.realpath(file))
        return None if index is None or self.dataset is None else self.dataset[index]


def settle_classes(cfg: DictConfig, args: argparse.Namespace, work: Work) -> Truth:
    """Give the config the classes of the weights, and read the annotations of its test dataset if they exist.

    Annotations that are wrong are left out, with a message in `work.without_annotations`.
    """
    names = class_names_of(args.weights)
    try:
        settle_data(cfg, class_names=names, asked=args.opts)
    except InputError as error:
        work.without_annotations.append(str(error))
        if names:
            OmegaConf.update(cfg, "dataloader.data", None, force_add=True)
            settle_data(cfg, class_names=names, asked=args.opts)
        return Truth()
    node: Any = OmegaConf.select(cfg, "dataloader.test.dataset") or {}
    if not (os.path.isfile(node.get("json_file", "")) and os.path.isdir(node.get("image_root", ""))):
        return Truth()
    try:
        return Truth(instantiate(node))
    except InputError:
        node = node.copy()
        node.classes = None  # other classes than the weights': shown with their own names
    try:
        return Truth(instantiate(node))
    except InputError as error:
        work.without_annotations.append(str(error))
        return Truth()


@dataclass(frozen=True)
class Detector:
    """A model that is ready to detect, with its transform, class names, category ids and device."""

    model: nn.Module
    transform: Any
    class_names: list[str]
    category_ids: list[int | None]
    device: torch.device


def load_detector(cfg: DictConfig, args: argparse.Namespace, truth: Truth, device: torch.device) -> Detector:
    """Build the config's model with the given weights.

    The class names come from the checkpoint, or else from the dataset. Raises InputError if the config is incomplete
    or the weights do not fit.
    """
    test = OmegaConf.select(cfg, "dataloader.test") or {}
    if "model" not in cfg or "transform" not in test:
        raise InputError(
            f"{args.config_file}: expected the config of a detector, with model and dataloader.test.transform"
        )
    local_path(args.weights)
    if OmegaConf.select(cfg, "model.backbone.pretrained"):
        cfg.model.backbone.pretrained = False  # no download, because the weights are replaced below
    model = instantiate(cfg.model)
    table = OmegaConf.select(cfg, "train.checkpoint_names")
    ema = bool(OmegaConf.select(cfg, "train.model_ema.enabled"))
    checkpoint = load_model(model, args.weights, names=None if table is None else instantiate(table), ema=ema)
    names = [str(name) for name in checkpoint.get("class_names") or truth.class_names]
    ids = checkpoint.get("category_ids") or (truth.category_ids if truth.class_names == names else [])
    return Detector(model.eval().to(device), instantiate(test["transform"]), names, list(ids), device)


@torch.no_grad()
def detect(
    detector: Detector, batches: Iterable[Sequence[Path]], unreadable: list[str]
) -> Iterator[tuple[Path, Image.Image, Detections]]:
    """Yield (file, image, detections) for all images; the errors of unreadable ones are appended to `unreadable`."""
    for files in batches:
        samples = read_samples(files, unreadable)
        if not samples:
            continue
        transform = detector.transform or _as_it_is
        batch = collate([transform(sample) for sample in samples.values()])
        for (file, sample), found in zip(samples.items(), detector.model(batch.to(detector.device)), strict=True):
            yield file, Image.fromarray(sample.pixels.permute(1, 2, 0).numpy()), found.to("cpu")


def _as_it_is(sample: Sample) -> Sample:
    """The transform of a config that has none."""
    return sample


def read_samples(files: Sequence[Path], unreadable: list[str]) -> dict[Path, Sample]:
    """The images as samples without annotations."""
    samples = {}
    for file in files:
        try:
            pixels = read_image(file)
        except InputError as error:
            unreadable.append(str(error))
            continue
        size = (pixels.shape[-2], pixels.shape[-1])
        boxes, labels = bounding_boxes(torch.zeros(0, 4), size), torch.zeros(0, dtype=torch.int64)
        samples[file] = Sample(pixels, boxes, labels, image_id=0, original_size=size)
    return samples


def reaching(found: Detections, least: Tensor) -> Detections:
    """The detections with a score of at least `least`, float32 [D]."""
    kept = found.scores >= least
    return Detections(found.boxes_xyxy[kept], found.scores[kept], found.labels[kept])


def record(file: Path, picture: str, image: Image.Image, found: Detections, detector: Detector) -> dict[str, Any]:
    """An image's entry of predictions.json. The category id is that of the training set, null if it is not known."""
    names, ids = detector.class_names, detector.category_ids
    rows = zip(found.boxes_xyxy.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
    detections = [
        {
            "bbox": [round(x, 2) for x in box],
            "score": round(score, 4),
            "class": class_name(label, names),
            "label": label,
            "category_id": ids[label] if label < len(ids) else None,
        }
        for box, score, label in rows
    ]
    size = {"width": image.width, "height": image.height}
    return {"file": str(file), "picture": picture, **size, "detections": detections}


def panel(file: Path, image: Image.Image, picture: Image.Image, truth: Truth, work: Work) -> Image.Image:
    """A picture for the contact sheet, with the annotations to its left if the image has any, and if they fit."""
    try:
        sample = truth.of(file)
    except InputError as error:
        work.without_annotations.append(str(error))
        sample = None
    targets = None if sample is None else collate([sample]).targets
    if targets is None:
        return with_caption(picture, file.name)
    annotated = draw_targets(image, targets[0], truth.class_names)
    return side_by_side(with_caption(annotated, f"{file.name}: annotated"), with_caption(picture, "detected"))
