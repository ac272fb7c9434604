"""Frames of a video file or a camera, and a video file of pictures, by PyAV (the extra `video`)."""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image

from crossstage.errors import InputError

SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".flv", ".ts")
CAMERA = "camera:"
DEVICE = "/dev/video"  # a camera on Linux, before its number
CODECS = ("libx264", "mpeg4")  # the first one that this PyAV has
QUARTERS = {1: Image.Transpose.ROTATE_90, 2: Image.Transpose.ROTATE_180, 3: Image.Transpose.ROTATE_270}
CLOCK = Fraction(1, 90_000)  # seconds per unit of the times that are written; common, and fine enough for any rate


@dataclass(frozen=True)
class Frame:
    """A frame of a video.

    Attributes:
        number: counted from 0.
        seconds: since the first frame.
        image: RGB, upright: turned as the file says.
    """

    number: int
    seconds: float
    image: Image.Image


def is_video(text: str) -> bool:
    """Whether an input is the name of a video file or of a camera (`camera:0`)."""
    return text.startswith(CAMERA) or Path(text).suffix.lower() in SUFFIXES


class Video:
    """A video file or a camera that is open for reading, inside `with`.

    Args:
        text: a file, or `camera:N` with the number of the camera.

    Attributes:
        total: number of frames as the file says, or None if it does not, as for a camera.
        rate: frames per second, on average.

    Raises:
        InputError: if PyAV is not installed, or the file or the camera cannot be opened.
    """

    def __init__(self, text: str) -> None:
        self.text, self._av = text, _pyav(text)
        where, kind = _camera(text) if text.startswith(CAMERA) else (str(Path(text).expanduser()), None)
        try:
            self._container: Any = self._av.open(where, format=kind)
        except (self._av.error.FFmpegError, OSError, ValueError) as error:
            expected = f"a camera that is not in use; here are: {_cameras()}" if kind else "a video file"
            raise InputError(f"--input {text}: cannot be opened ({_reason(error)}); expected {expected}") from error
        if not self._container.streams.video:
            self._container.close()
            raise InputError(f"--input {text}: has no pictures; expected a video file")
        stream = self._container.streams.video[0]
        stream.thread_type = "AUTO"
        self.rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
        seconds = float(stream.duration * stream.time_base) if stream.duration else 0.0
        self.total = None if kind else stream.frames or round(seconds * self.rate) or None

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *error: object) -> None:
        self._container.close()

    def frames(self) -> Iterator[Frame]:
        """Read the frames in their order. Damaged ones are left out; then this raises InputError at the end."""
        first = None
        number = 0
        damage: list[str] = []
        for frame in self._decoded(damage):
            seconds = float(number / self.rate) if frame.time is None else frame.time
            first = seconds if first is None else first
            yield Frame(number, seconds - first, upright(frame.to_image(), frame.rotation))
            number += 1
        if damage:
            raise InputError(
                f"{self.text}: damaged in {len(damage)} places ({damage[0]}); {number} frames could be read; the "
                "others are left out"
            )

    def _decoded(self, damage: list[str]) -> Iterator[Any]:
        """PyAV's frames; a message is appended to `damage` for each place that cannot be read."""
        try:
            for packet in self._container.demux(video=0):
                try:
                    found = packet.decode()
                except self._av.error.FFmpegError as error:
                    damage.append(_reason(error))
                    continue
                yield from found
        except self._av.error.FFmpegError as error:  # of the file as a whole: nothing can be read after it
            damage.append(_reason(error))


class VideoFile:
    """A video file (H.264 if PyAV has it) that is written, inside `with`. It is playable however `with` is left.

    Args:
        path: the file, created or replaced; its suffix decides the format.
        rate: frames per second, on average. Each frame keeps its own time.

    Raises:
        InputError: if the file cannot be written.
    """

    def __init__(self, path: Path, *, rate: Fraction) -> None:
        self.path, self.rate, self._av = path, rate, _pyav(str(path))
        self._last = -1
        self._stream: Any = None
        try:
            self._container: Any = self._av.open(str(path), "w")
        except (self._av.error.FFmpegError, OSError) as error:
            raise InputError(f"{path}: cannot be written ({_reason(error)})") from error

    def __enter__(self) -> VideoFile:
        return self

    def write(self, picture: Image.Image, seconds: float) -> None:
        """Append a picture that is shown from `seconds` on. All pictures have the size of the first one."""
        if self._stream is None:
            self._begin(picture)
        # The codec needs even sizes; a column or row is added at the end if it must be.
        frame = self._av.VideoFrame.from_image(_cut(picture, (self._stream.width, self._stream.height)))
        self._last = max(self._last + 1, round(seconds / CLOCK))  # two frames cannot have the same time
        frame.pts, frame.time_base = self._last, CLOCK
        self._put(frame)

    def _begin(self, picture: Image.Image) -> None:
        codec = next(name for name in CODECS if name in self._av.codecs_available)
        self._stream = self._container.add_stream(codec, rate=self.rate)
        self._stream.width, self._stream.height = (side + side % 2 for side in picture.size)
        self._stream.pix_fmt = "yuv420p"  # the only one that all players show
        self._stream.codec_context.time_base = CLOCK

    def _put(self, frame: Any) -> None:
        try:
            self._container.mux(self._stream.encode(frame))
        except (self._av.error.FFmpegError, OSError) as error:
            raise InputError(f"{self.path}: cannot be written ({_reason(error)})") from error

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            if self._stream is not None:
                self._put(None)  # what the codec still holds
        except InputError:
            if kind is None:
                raise
        finally:
            self._container.close()
        if self._stream is None:
            self.path.unlink(missing_ok=True)


def upright(image: Image.Image, degrees: int) -> Image.Image:
    """Turn an image counter-clockwise by a multiple of 90 degrees, as a file's display matrix says; others are kept."""
    quarter = QUARTERS.get(round(degrees / 90) % 4) if degrees % 90 == 0 else None
    return image if quarter is None else image.transpose(quarter)


def _cut(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture at the top left of a black one of the given size."""
    if picture.size == size:
        return picture
    whole = Image.new("RGB", size)
    whole.paste(picture)
    return whole


def _camera(text: str) -> tuple[str, str]:
    """Name and driver of a camera in ffmpeg's words."""
    number = text.removeprefix(CAMERA)
    if not number.isdecimal():
        raise InputError(f"--input {text}: expected the number of a camera, such as {CAMERA}0")
    if sys.platform == "darwin":
        return number, "avfoundation"
    if sys.platform == "win32":
        raise InputError(f"--input {text}: Windows names cameras by text; record to a file first")
    return f"{DEVICE}{number}", "v4l2"


def _cameras() -> str:
    """The cameras of this machine in words, as far as the system lists them."""
    devices = [path.removeprefix(DEVICE) for path in glob.glob(f"{DEVICE}*")]
    return ", ".join(f"{CAMERA}{number}" for number in sorted(devices)) or "none that the system lists"


def _pyav(text: str) -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise InputError(f"--input {text}: video needs PyAV: pip install 'crossstage[video]'") from error
    return av


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error)
