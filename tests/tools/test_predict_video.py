"""`crossstage predict` on videos: which frames, when, how they are turned, and what an interruption leaves."""

import json
import struct
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from crossstage.cli.predict import main
from crossstage.inference import video
from crossstage.inference.video import Video, VideoFile, upright
from tests.tools.test_predict import CONFIG, MODEL

av = pytest.importorskip("av")
TIMES = (0, 1, 2, 3, 10, 11, 12, 13, 14, 30)  # in units of 1/30 s: the rate varies


def painted(left: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """A red square of 16 pixels on blue, `left` pixels from the left."""
    image = Image.new("RGB", size, (20, 20, 90))
    ImageDraw.Draw(image).rectangle((left, 8, left + 15, 23), fill=(230, 0, 0))
    return image


@pytest.fixture
def work(tmp_path, monkeypatch):
    """The working directory, with a config, its weights and clip.mp4, in which a square moves to the right."""
    (tmp_path / "predict_stand_in.py").write_text(MODEL)
    (tmp_path / "config.py").write_text(CONFIG)
    torch.save(
        {"model": {"scores": torch.tensor([0.9, 0.4])}, "class_names": ["red", "green"]}, tmp_path / "weights.pth"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with VideoFile(tmp_path / "clip.mp4", rate=Fraction(30)) as file:
        for number, time in enumerate(TIMES):
            file.write(painted(4 * number), 5 + time / 30)  # its first frame is not at 0
    yield tmp_path
    sys.modules.pop("predict_stand_in", None)


def run(*arguments, source="clip.mp4"):
    given = ["--config-file", "config.py", "--weights", "weights.pth", "--output", "out", "--input", source]
    return main([*given, *arguments])


def entries():
    return json.loads(Path("out/predictions.json").read_text())


def times(path="out/clip.mp4"):
    with Video(str(path)) as opened:
        return [frame.seconds for frame in opened.frames()]


@pytest.mark.parametrize("batch", [1, 4])
def test_each_frame_has_its_time_and_its_boxes(work, capsys, batch):
    assert run("--batch-size", str(batch)) == 0
    assert "10 detections with a score of at least 0.3 in 10 frames" in capsys.readouterr().out
    found = entries()
    assert [entry["frame"] for entry in found] == list(range(10))
    assert [entry["time"] for entry in found] == pytest.approx([time / 30 for time in TIMES], abs=1e-3)
    assert times() == pytest.approx([time / 30 for time in TIMES], abs=1e-3)
    for number, entry in enumerate(found):
        assert (entry["file"], entry["width"], entry["height"]) == ("clip.mp4", 64, 48)
        assert entry["detections"][0]["bbox"] == pytest.approx([4 * number, 8, 4 * number + 16, 24], abs=2)


def test_the_limit_counts_frames(work):
    assert run("--limit", "3") == 0
    assert len(entries()) == len(times()) == 3


def test_ctrl_c_leaves_a_playable_video_of_what_is_done(work, capsys):
    count = "Finder.calls = getattr(Finder, 'calls', 0) + 1"
    stop = f"found = []\n        {count}\n        if Finder.calls > 4: raise KeyboardInterrupt"
    (work / "predict_stand_in.py").write_text(MODEL.replace("found = []", stop))
    assert run() == 130
    assert "in 4 of 10 frames" in capsys.readouterr().out
    assert len(entries()) == len(times()) == 4


def test_a_damaged_video_loses_only_what_is_damaged(work, capsys):
    content = bytearray((work / "clip.mp4").read_bytes())
    start, end = content.index(b"mdat") + 4, content.index(b"moov") - 4  # the frames; moov says where each one is
    length = (end - start) // 8
    content[end - length : end] = b"\xff" * length
    (work / "clip.mp4").write_bytes(content)
    assert run() == 2
    assert 1 <= len(entries()) == len(times()) < 10
    said = capsys.readouterr().err
    assert "error: clip.mp4: damaged in " in said and f"{len(entries())} frames could be read" in said


@pytest.mark.parametrize(
    ("matrix", "corner"),
    [((0, 1, -1, 0), "right"), ((-1, 0, 0, -1), "right bottom"), ((0, -1, 1, 0), "bottom"), ((1, 0, 0, 1), "")],
)
def test_a_video_turned_by_its_metadata_is_upright(work, matrix, corner):
    """A phone writes (0, 1, -1, 0): the point (x, y) of the sensor is shown at (-y, x)."""
    content = bytearray((work / "clip.mp4").read_bytes())
    place = content.index(b"tkhd") + 44  # version, times, track, duration, layer, volume come before the matrix
    a, b, c, d = (value << 16 for value in matrix)
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    (work / "clip.mp4").write_bytes(content)
    assert run("--limit", "1") == 0
    entry = entries()[0]
    x0, y0, x1, y1 = entry["detections"][0]["bbox"]
    width, height = (48, 64) if matrix[0] == 0 else (64, 48)
    assert (entry["width"], entry["height"]) == (width, height)
    assert ((x0 + x1) / 2 > width / 2, (y0 + y1) / 2 > height / 2) == ("right" in corner, "bottom" in corner)


def test_odd_sizes_are_written(tmp_path):
    with VideoFile(tmp_path / "odd.mp4", rate=Fraction(30)) as file:
        for time in (0.0, 0.0):  # equal times too
            file.write(painted(0, (63, 47)), time)
    assert len(times(tmp_path / "odd.mp4")) == 2
    assert not list(tmp_path.glob("none.mp4"))


def test_an_angle_between_quarters_turns_nothing():
    assert upright(painted(0), 30).size == (64, 48)


@pytest.mark.parametrize(
    ("source", "more", "message"),
    [
        ("lost.mp4", [], "--input lost.mp4: no such file"),
        ("text.mp4", [], "--input text.mp4: cannot be opened"),
        ("camera:77", [], "--input camera:77: cannot be opened (No such file or directory); expected a camera that is"),
        ("/dev/video77", [], "--input /dev/video77: a camera is given by its number; expected camera:77"),
        ("rtsp://127.0.0.1/door", [], "--input rtsp://127.0.0.1/door: addresses are not read; download the file"),
        ("http://127.0.0.1/a.mp4", [], "--input http://127.0.0.1/a.mp4: addresses are not read"),
        ("camera:front", [], "--input camera:front: expected the number of a camera, such as camera:0"),
        ("clip.mp4", ["weights.pth"], "--input clip.mp4: expected one video alone"),
        ("clip.mp4", ["--output", "."], "--output .: holds the input clip.mp4 itself"),
        ("clip.mp4", ["--limit", "0"], "--limit 0: expected at least 1"),
    ],
)
def test_a_mistake_is_one_line(work, capsys, source, more, message):
    (work / "text.mp4").write_text("no video\n" * 100)
    before = (work / "clip.mp4").read_bytes()
    assert run(*more, source=source) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ") and "\n" not in said and message in said
    assert (work / "clip.mp4").read_bytes() == before


def test_without_pyav_the_message_has_the_line_for_pip(work, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    assert run() == 2
    assert "--input clip.mp4: video needs PyAV: pip install 'crossstage[video]'" in capsys.readouterr().err


def test_names_of_videos():
    assert all(map(video.is_video, ["a.MP4", "~/b c.mov", "camera:0"]))
    assert not any(map(video.is_video, ["a.jpg", "mp4", "folder/", "*.png"]))
