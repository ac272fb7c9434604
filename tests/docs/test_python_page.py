"""docs/python.md as a user follows it: its blocks of Python run one after another, in a folder with a run."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossstage.cli.pull import argument_parser as pull_parser
from crossstage.cli.push import argument_parser as push_parser
from tests.tiny_run import write_tiny_run

PAGE = (Path(__file__).parents[2] / "docs/python.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the quickstart's output, a photo, a larger picture and a video."""
    folder = tmp_path_factory.mktemp("user")
    write_tiny_run(folder / "output/quickstart")
    noise = np.random.default_rng(0).integers(0, 255, (96, 1280, 3), dtype=np.uint8)
    Image.fromarray(noise[:, :64]).save(folder / "photo.jpg")
    Image.fromarray(noise).save(folder / "large.jpg")
    return folder


def test_the_examples_run(place, monkeypatch, capsys):
    supervision = pytest.importorskip("supervision", reason="the extra 'convert' is not installed")
    monkeypatch.chdir(place)
    info = supervision.VideoInfo(width=64, height=96, fps=5)
    with supervision.VideoSink("video.mp4", info) as sink:
        for value in (0, 90, 200):
            sink.write_frame(np.full((96, 64, 3), value, np.uint8))
    names: dict = {}
    for block in BLOCKS:
        exec(block, names)
    assert supervision.VideoInfo.from_video_path("found.mp4").total_frames == 3
    assert "(0, 4)" in capsys.readouterr().out, "random weights find nothing with a score of 0.3"


def test_the_first_example_is_four_lines():
    assert len([line for line in BLOCKS[0].splitlines() if line]) == 4
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert BLOCKS[0] in readme


def test_the_commands_are_accepted():
    push_parser().parse_args(["output/quickstart", "me/quickstart", "--license", "apache-2.0"])
    pull_parser().parse_args(["me/quickstart"])
    assert "crossstage push output/quickstart me/quickstart --license apache-2.0\ncrossstage pull me/quickstart" in PAGE
