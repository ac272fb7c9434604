"""The work of `crossstage data check`: finds all problems of a data set, counts objects, draws annotated pictures."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console

from crossstage.cli.picture_files import save_picture
from crossstage.data.batch import collate
from crossstage.data.classes import differences, some, with_classes
from crossstage.data.coco import CocoDetection
from crossstage.data.coco_json import CocoContents, all_mistakes, read_coco
from crossstage.data.image_files import QUARTER_TURN, ImageFile, look_at_files
from crossstage.data.layouts import Split, find_splits
from crossstage.data.objects import findings, used_objects
from crossstage.errors import InputError
from crossstage.evaluation.loop import tracked
from crossstage.evaluation.reachable import reach
from crossstage.visualize import contact_sheet, draw_targets, with_caption

SIZES = ((0, 32**2, "small"), (32**2, 96**2, "medium"), (96**2, float("inf"), "large"))  # COCO's, in pixels
SHOWN = 10  # problems of a kind that are printed


def check(args: argparse.Namespace) -> None:
    """Print everything about a data set and draw a sheet per split. Raises InputError if it cannot be used."""
    if args.pictures < 1:
        raise InputError(f"--pictures {args.pictures}: expected at least 1")
    report = Report()
    with told_lines() as told:
        check_all(args, report, told)
    report.end()


def check_all(args: argparse.Namespace, report: Report, told: list[str]) -> None:
    """Check the splits one after the other; `told` receives the lines that the library logs meanwhile."""
    splits = find_splits(args.data[0] if len(args.data) == 1 else args.data)
    class_names: list[str] | None = None
    files: dict[str, list[ImageFile]] = {}
    datasets: dict[str, CocoDetection] = {}
    for name, split in splits.items():
        if name == "test" and split == splits["val"]:
            continue
        report.title(f"{name}: {split.json_file}, images in {split.image_root}")
        contents = checked_contents(split, class_names, report, evaluated=name != "train")
        if contents is None:
            continue
        class_names = class_names or contents.class_names
        print(table(contents))
        datasets[name] = CocoDetection(split.json_file, split.image_root, classes=class_names)
        told.clear()  # what the dataset says is in the report already
        files[name] = checked_files(datasets[name], report)
        report.warning(told)
        draw(datasets[name], files[name], Path(args.output).expanduser() / f"{name}.png", number=args.pictures)
    check_shared_files(files, datasets, report)


@contextmanager
def told_lines() -> Iterator[list[str]]:
    """Inside, the warnings that the library logs about data go into the list instead of to the terminal."""
    logger, handler = logging.getLogger("crossstage.data"), _Lines()
    propagates, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield handler.lines
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates


class _Lines(logging.Handler):
    """Keeps the messages of warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class Report:
    """Prints problems, which keep a data set from being used, and warnings, and counts them."""

    def __init__(self) -> None:
        self.problems = self.warnings = 0

    def title(self, text: str) -> None:
        """Print the title of a part."""
        print(f"\n{text}")

    def problem(self, lines: Sequence[str]) -> None:
        """Print problems of one kind; many are shortened."""
        self.problems += len(lines)
        self._list("PROBLEM", lines)

    def warning(self, lines: Sequence[str]) -> None:
        """Print warnings of one kind; many are shortened."""
        self.warnings += len(lines)
        self._list("warning", lines)

    def _list(self, kind: str, lines: Sequence[str]) -> None:
        for line in lines[:SHOWN]:
            print(f"  {kind}  {line}")
        if len(lines) > SHOWN:
            print(f"  {kind}  ... and {len(lines) - SHOWN} more of this kind")

    def end(self) -> None:
        """Print the numbers. Raises InputError if there is a problem."""
        print(f"\n{self.problems} problems, {self.warnings} warnings")
        if self.problems:
            raise InputError(f"the data cannot be used as they are: {self.problems} problems, listed above")


def checked_contents(
    split: Split, class_names: Sequence[str] | None, report: Report, *, evaluated: bool
) -> CocoContents | None:
    """The annotations of a split by the classes of training; None if they are wrong. All findings are reported."""
    if mistakes := all_mistakes(split.json_file):
        report.problem(mistakes)
        return None
    as_written = read_coco(split.json_file)
    try:
        contents = with_classes(as_written, class_names)
    except InputError as error:
        report.problem([str(error)])
        return None
    report.warning(differences(as_written, class_names))
    report.warning(findings(contents, used_objects(contents)))
    if evaluated and (problems := reach(contents, max_detections=100).problems):
        report.warning([f"evaluation cannot reach all objects: {', '.join(problems)}"])
    return contents


def table(contents: CocoContents) -> str:
    """Numbers of images, and of objects by class and size, as text."""
    single = ~contents.crowd
    areas, labels = contents.areas[single], contents.labels[single]
    empty = len(contents.image_ids) - len(np.unique(contents.image_rows))
    width = max(5, *(min(30, len(name)) for name in contents.class_names))
    lines = [
        f"  {len(contents.image_ids)} images, {empty} without annotations; {single.sum()} objects, "
        f"{contents.crowd.sum()} crowd regions",
        f"  {'class':<{width}} {'objects':>9} {'images':>9}" + "".join(f"{size:>9}" for *_, size in SIZES),
    ]
    for label, name in enumerate(contents.class_names):
        of_class = labels == label
        images = len(np.unique(contents.image_rows[single][of_class]))
        by_size = (((areas[of_class] >= low) & (areas[of_class] < high)).sum() for low, high, _ in SIZES)
        row = "".join(f"{number:>9}" for number in by_size)
        lines.append(f"  {name[:30]:<{width}} {of_class.sum():>9} {images:>9}{row}")
    occurring = set(labels.tolist())
    if missing := [name for label, name in enumerate(contents.class_names) if label not in occurring]:
        lines.append(f"  without objects: {some(missing)}")
    return "\n".join(lines)


def checked_files(dataset: CocoDetection, report: Report) -> list[ImageFile]:
    """Decode all images, and report those that cannot be used or that their EXIF orientation turns."""
    indices = list(tracked(look_at_files(dataset), Console(stderr=True), what="images"))
    report.problem([file.problem for file in indices if file.problem])
    turned = [file for file in indices if file.turn > 1 and not file.problem]
    if same := [dataset.path(file.index).name for file in turned if file.turn < QUARTER_TURN]:
        report.warning(
            [
                f"{len(same)} images are mirrored or turned upside down by their EXIF orientation ({some(same)}): look "
                "at the sheet whether their boxes are those of the turned image"
            ]
        )
    return indices


def draw(dataset: CocoDetection, files: Sequence[ImageFile], path: Path, *, number: int) -> None:
    """Draw some annotated images: first one of each class and each that EXIF turns, then others from the whole set."""
    usable = [file.index for file in files if not file.problem]
    if not usable:
        return
    turned = [file.index for file in files if file.turn > 1 and not file.problem]
    of_classes = list(dataset.first_images().values())
    evenly = usable[:: max(1, len(usable) // number)]
    chosen = [index for index in dict.fromkeys([*of_classes, *turned, *evenly]) if index in set(usable)][:number]
    panels = []
    for index in chosen:
        sample = dataset[index]
        (target,) = collate([sample]).targets or ()
        picture = draw_targets(Image.fromarray(sample.pixels.permute(1, 2, 0).numpy()), target, dataset.class_names)
        panels.append(with_caption(picture, dataset.path(index).name))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_picture(contact_sheet(panels), path)
    print(f"  pictures  {path}")


def check_shared_files(files: dict[str, list[ImageFile]], datasets: dict[str, CocoDetection], report: Report) -> None:
    """Report images whose file is, byte by byte, in several splits, or several times in one."""
    seen: dict[str, tuple[str, str]] = {}
    pairs: dict[tuple[str, str], list[str]] = {}
    for name, of_split in files.items():
        for file in of_split:
            path = datasets[name].path(file.index).name
            if file.digest and file.digest in seen:
                first, other = seen[file.digest]
                pairs.setdefault((first, name), []).append(f"{other} = {path}")
            elif file.digest:
                seen[file.digest] = (name, path)
    report.title("images that occur more than once")
    for (first, second), names in pairs.items():
        where = f"twice in {first}" if first == second else f"in {first} and in {second}"
        report.warning([f"{len(names)} images are {where}, byte by byte: {some(names)}"])
    if not pairs:
        print("  none")
