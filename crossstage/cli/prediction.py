"""The work of `crossstage predict`: finds images, detects, draws and writes. Read `predict` first."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import DictConfig
from PIL import Image
from rich.console import Console
from torch import Tensor

from crossstage.cli.picture_files import SHEET_FILE, find_images, picture_names, prepare_output, save_picture
from crossstage.cli.records import described, entry, write_predictions
from crossstage.cli.thresholds import Thresholds, parse_thresholds
from crossstage.cli.video_prediction import predict_video, video_input, video_output
from crossstage.config import LazyConfig, find_config
from crossstage.data.batch import collate
from crossstage.data.pixels import read_image
from crossstage.engine.log import RunLog
from crossstage.errors import InputError
from crossstage.evaluation.loop import tracked
from crossstage.inference.classes import Truth, settle_classes
from crossstage.inference.predictor import Predictor, build_predictor, choose_device
from crossstage.inference.video import Video
from crossstage.structures import Detections
from crossstage.visualize import contact_sheet, draw_detections, draw_targets, side_by_side, with_caption

ON_SHEET = 12


def predict(args: argparse.Namespace) -> None:
    """Do everything from the command line to the files. Raises InputError, at the end if images are unreadable."""
    with RunLog() as log:
        predict_all(args, log.console)


def predict_all(args: argparse.Namespace, console: Console) -> None:
    """The work of `predict`; the console shows the progress."""
    check_numbers(args)
    cfg = LazyConfig.apply_overrides(LazyConfig.load(find_config(args.config_file)), args.opts)
    text = video_input(args.input)
    if text is None:
        predict_images(args, cfg, console)
        return
    with Video(text) as video:
        path = video_output(text, Path(args.output).expanduser())
        ready = opened(args, cfg, problems=[])
        predict_video(
            video,
            path,
            ready.predictor,
            thresholds=ready.thresholds,
            limit=args.limit,
            batch=args.batch_size,
            console=console,
        )


def predict_images(args: argparse.Namespace, cfg: DictConfig, console: Console) -> None:
    """Detect in all images. Raises InputError, at the end if images are unreadable."""
    files = find_images(args.input)[: args.limit]
    output = Path(args.output).expanduser()
    names = picture_names(files)
    prepare_output(output, files, names)
    work = Work(len(files))
    ready = opened(args, cfg, problems=work.without_annotations)
    batches = [files[start : start + args.batch_size] for start in range(0, len(files), args.batch_size)]
    try:
        with closing(tracked(batches, console, what="predict")) as progress:
            for file, image, detections in detect(ready.predictor, progress, work.unreadable):
                least = ready.thresholds.of_labels(detections.labels, detections.class_names)
                detections = detections.reaching(least)
                picture = draw_detections(image, detections, detections.class_names, threshold=0)
                save_picture(picture, output / names[file])
                place = {"file": str(file), "picture": names[file], "width": image.width, "height": image.height}
                work.entries.append(entry(**place, detections=described(detections)))
                work.found += len(detections)
                if len(work.panels) < ON_SHEET:
                    work.panels.append(panel(file, image, picture, ready.truth, work))
    finally:  # an interruption or an error loses nothing that is done
        work.write(output, ready.thresholds)
    work.check()


@dataclass(frozen=True)
class Ready:
    """What is needed to detect."""

    predictor: Predictor
    truth: Truth
    thresholds: Thresholds


def opened(args: argparse.Namespace, cfg: DictConfig, *, problems: list[str]) -> Ready:
    """Load the detector; messages about annotations that are wrong are appended to `problems`."""
    device = choose_device(args.device, flag="--device")
    thresholds = parse_thresholds(args.threshold)
    truth = settle_classes(cfg, args.weights, asked=args.opts, problems=problems)
    predictor = build_predictor(cfg, args.weights, source=args.config_file, truth=truth, device=device)
    thresholds.check(predictor.class_names)
    return Ready(predictor, truth, thresholds)


@dataclass
class Work:
    """What is done so far, of `total` images, and what was left out, as messages."""

    total: int
    entries: list[str] = field(default_factory=list)
    found: int = 0
    panels: list[Image.Image] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    without_annotations: list[str] = field(default_factory=list)

    def write(self, output: Path, thresholds: Thresholds) -> None:
        """Write predictions.json and the contact sheet, and print where they are."""
        detections = write_predictions(output, self.entries)
        of_all = f" of {self.total}" if len(self.entries) + len(self.unreadable) < self.total else ""
        print(f"{self.found} detections with a score of at least {thresholds} in {len(self.entries)}{of_all} images")
        print(f"  pictures     {output}\n  detections   {detections}")
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
