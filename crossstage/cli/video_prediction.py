"""`crossstage predict` for a video file or a camera: an annotated video, and the detections of each frame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from rich.console import Console

from crossstage.cli.picture_files import prepare_output
from crossstage.cli.records import described, entry, write_predictions
from crossstage.cli.thresholds import Thresholds
from crossstage.errors import InputError
from crossstage.evaluation.loop import tracked
from crossstage.inference.predictor import Predictor
from crossstage.inference.video import CAMERA, DEVICE, Frame, Video, VideoFile, is_video
from crossstage.visualize import draw_detections


def video_input(inputs: list[str]) -> str | None:
    """The video among the inputs, or None for images.

    Raises InputError for a video next to other inputs, for a missing file, and for an address.
    """
    for text in inputs:
        if "://" in text:
            raise InputError(
                f"--input {text}: addresses are not read; download the file first, or save the stream (ffmpeg -i "
                f"ADDRESS -c copy video.mp4); a camera of this machine is {CAMERA}0"
            )
        if text.startswith(DEVICE) and (number := text.removeprefix(DEVICE)).isdecimal():
            raise InputError(f"--input {text}: a camera is given by its number; expected {CAMERA}{number}")
    videos = [text for text in inputs if is_video(text)]
    if videos and len(inputs) > 1:
        raise InputError(f"--input {videos[0]}: expected one video alone; give the other inputs to a run of their own")
    if videos and not videos[0].startswith(CAMERA) and not Path(videos[0]).expanduser().is_file():
        raise InputError(f"--input {videos[0]}: no such file")
    return videos[0] if videos else None


def video_output(text: str, output: Path) -> Path:
    """Create the folder of the output; returns the file of the annotated video.

    Raises InputError if the folder is not writable, or if the file would replace the input.
    """
    source = Path(text).expanduser()
    name = f"{text.replace(':', '_') if text.startswith(CAMERA) else source.stem}.mp4"
    prepare_output(output, [source], {source: name})
    return output / name


@dataclass
class VideoWork:
    """What is done so far: the entries of predictions.json, and the number of detections."""

    text: str
    total: int | None
    entries: list[str] = field(default_factory=list)
    found: int = 0

    def write(self, path: Path, thresholds: Thresholds) -> None:
        """Write predictions.json, and print where the files are."""
        detections = write_predictions(path.parent, self.entries)
        of_all = f" of {self.total}" if self.total and len(self.entries) < self.total else ""
        print(f"{self.found} detections with a score of at least {thresholds} in {len(self.entries)}{of_all} frames")
        if path.is_file():
            print(f"  video        {path}")
        print(f"  detections   {detections}")


def predict_video(
    video: Video,
    path: Path,
    predictor: Predictor,
    *,
    thresholds: Thresholds,
    limit: int | None,
    batch: int,
    console: Console,
) -> None:
    """Detect in all frames. Whatever ends this, the frames that are done are in a playable file.

    Args:
        video: the open video.
        path: the annotated video; predictions.json is written next to it.
        predictor: detects.
        thresholds: the least scores.
        limit: the most frames, or None for all.
        batch: number of frames per batch.
        console: shows the progress.

    Raises:
        InputError: if a frame cannot be read or written.
    """
    work = VideoWork(video.text, video.total)
    frames: Iterable[Frame] = islice(video.frames(), limit)
    total = min(filter(None, (video.total, limit)), default=None)
    if total is not None:
        frames = _Counted(frames, total)
    try:
        with VideoFile(path, rate=video.rate) as file, closing(tracked(frames, console, what="predict")) as progress:
            while some := list(islice(progress, batch)):
                _detect(some, predictor, thresholds, file, work)
    finally:
        work.write(path, thresholds)


def _detect(
    frames: list[Frame], predictor: Predictor, thresholds: Thresholds, file: VideoFile, work: VideoWork
) -> None:
    found = predictor.predict([frame.image for frame in frames], threshold=0.0, batch=len(frames))
    for frame, detections in zip(frames, found, strict=True):
        names = detections.class_names
        detections = detections.reaching(thresholds.of_labels(detections.labels, names))
        file.write(draw_detections(frame.image, detections, names, threshold=0), frame.seconds)
        width, height = frame.image.size
        place = {"file": work.text, "frame": frame.number, "time": round(frame.seconds, 6)}
        work.entries.append(entry(**place, width=width, height=height, detections=described(detections)))
        work.found += len(detections)


class _Counted:
    """Frames with their number as the file says, for the progress."""

    def __init__(self, frames: Iterable[Frame], total: int) -> None:
        self.frames, self.total = frames, total

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[Frame]:
        return iter(self.frames)
