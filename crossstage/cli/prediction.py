"""The work of `crossstage predict`: finds images, detects, draws and writes. Read `predict` first."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from torch import Tensor

from crossstage.cli.picture_files import SHEET_FILE, find_images, picture_names, prepare_output, save_picture
from crossstage.cli.thresholds import Thresholds, parse_thresholds
from crossstage.config import LazyConfig, find_config
from crossstage.data.batch import collate
from crossstage.data.pixels import read_image
from crossstage.engine.log import RunLog
from crossstage.errors import InputError
from crossstage.evaluation.loop import tracked
from crossstage.files import write_text
from crossstage.inference.classes import Truth, settle_classes
from crossstage.inference.predictor import Predictor, build_predictor, choose_device
from crossstage.structures import Detections
from crossstage.visualize import contact_sheet, draw_detections, draw_targets, side_by_side, with_caption

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
    device = choose_device(args.device, flag="--device")
    work, thresholds = Work(len(files)), parse_thresholds(args.threshold)
    truth = settle_classes(cfg, args.weights, asked=args.opts, problems=work.without_annotations)
    predictor = build_predictor(cfg, args.weights, source=args.config_file, truth=truth, device=device)
    thresholds.check(predictor.class_names)
    batches = [files[start : start + args.batch_size] for start in range(0, len(files), args.batch_size)]
    try:
        with closing(tracked(batches, console, what="predict")) as progress:
            for file, image, detections in detect(predictor, progress, work.unreadable):
                detections = detections.reaching(thresholds.of_labels(detections.labels, detections.class_names))
                picture = draw_detections(image, detections, detections.class_names, threshold=0)
                save_picture(picture, output / names[file])
                work.records.append(record(file, names[file], image, detections))
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


def read_pictures(files: Sequence[Path], unreadable: list[str]) -> dict[Path, Tensor]:
    """The images, uint8 [3, H, W]; the errors of unreadable ones are appended to `unreadable`."""
    pictures = {}
    for file in files:
        try:
            pictures[file] = read_image(file)
        except InputError as error:
            unreadable.append(str(error))
    return pictures


def detect(
    predictor: Predictor, batches: Iterable[Sequence[Path]], unreadable: list[str]
) -> Iterator[tuple[Path, Image.Image, Detections]]:
    """Yield (file, image, detections) for all images; the errors of unreadable ones are appended to `unreadable`."""
    for files in batches:
        pictures = read_pictures(files, unreadable)
        found = predictor.predict(list(pictures.values()), threshold=0.0, batch=len(files))
        for (file, pixels), detections in zip(pictures.items(), found, strict=True):
            yield file, Image.fromarray(pixels.permute(1, 2, 0).numpy()), detections


def record(file: Path, picture: str, image: Image.Image, found: Detections) -> dict[str, Any]:
    """An image's entry of predictions.json. The category id is that of the training set, null if it is not known."""
    ids = found.category_ids
    rows = zip(found.boxes_xyxy.tolist(), found.scores.tolist(), found.labels.tolist(), found.names, strict=True)
    detections = [
        {
            "bbox": [round(x, 2) for x in box],
            "score": round(score, 4),
            "class": name,
            "label": label,
            "category_id": ids[label] if label < len(ids) else None,
        }
        for box, score, label, name in rows
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
