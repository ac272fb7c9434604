"""Image files of every kind become 8-bit RGB by their range, or are refused with the file's name."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crossstage.data import pixels
from crossstage.data.pixels import orientation, read_image
from crossstage.errors import InputError

BASE = np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype(np.uint8)
BASE[0, 0] = 255  # the whole range is used
GREY = BASE[..., 0]


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch):
    monkeypatch.setattr(pixels, "_told", set())


def write_png16(path: Path, values: np.ndarray) -> None:
    """A PNG with 16 bits per channel, which Pillow can only write for greyscale."""
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[values.shape[2]]
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    blocks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0),
        b"IDAT": zlib.compress(rows),
        b"IEND": b"",
    }
    encoded = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in blocks.items()
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(encoded))


def write_tiff(path: Path, values: np.ndarray, *, kind: int = 1, photometric: int = 1, planes: bool = False) -> None:
    """A TIFF file without compression, of forms that Pillow cannot write; `kind`: 1 unsigned, 2 signed, 3 float."""
    height, width, channels = values.shape
    size = values.nbytes // channels if planes else values.nbytes
    strips = channels if planes else 1
    tags = {256: [width], 257: [height], 258: [8 * values.itemsize] * channels, 259: [1], 262: [photometric]}
    tags |= {273: [0] * strips, 277: [channels], 278: [height], 279: [size] * strips, 284: [1 + planes]}
    tags |= {339: [kind] * channels}
    rest, end = b"", 8 + 2 + 12 * len(tags) + 4
    start = end + sum(4 * len(numbers) for numbers in tags.values() if len(numbers) > 1)
    tags[273] = [start + size * strip for strip in range(strips)]
    entries = b""
    for tag, numbers in tags.items():
        packed = struct.pack(f"<{len(numbers)}I", *numbers)
        place = packed if len(numbers) == 1 else struct.pack("<I", end + len(rest))
        rest += packed if len(numbers) > 1 else b""
        entries += struct.pack("<HHI", tag, 4, len(numbers)) + place
    pixels = np.moveaxis(values, -1, 0) if planes else values
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + rest + pixels.tobytes())


def scaled(bits: int, kind: str = "<u2") -> Image.Image:
    """The greyscale picture with values of so many bits."""
    return Image.fromarray((GREY / 255 * (2**bits - 1) + 0.5).astype(kind))


GREYS = {
    "8 bits": lambda path: Image.fromarray(GREY).save(path),
    "16 bits": lambda path: scaled(16).save(path),
    "16 bits, big-endian": lambda path: scaled(16, ">u2").save(path.with_suffix(".tif")),
    "14 bits in 16": lambda path: scaled(14).save(path),
    "12 bits in 16": lambda path: scaled(12).save(path.with_suffix(".tif")),
    "10 bits in 16": lambda path: scaled(10).save(path),
    "8 bits in 16": lambda path: Image.fromarray(GREY.astype(np.uint16)).save(path),
    "16 bits in 32": lambda path: scaled(16, "<i4").save(path.with_suffix(".tif")),
    "float to 1": lambda path: Image.fromarray((GREY / 255).astype(np.float32)).save(path.with_suffix(".tif")),
    "float to 255": lambda path: Image.fromarray(GREY.astype(np.float32)).save(path.with_suffix(".tif")),
    "float to 65535": lambda path: Image.fromarray(GREY.astype(np.float32) * 257).save(path.with_suffix(".tif")),
    "float a little beyond 1": lambda path: Image.fromarray((GREY / 254).astype(np.float32)).save(
        path.with_suffix(".tif")
    ),
    "15 bits of a signed 16": lambda path: write_tiff(path, (GREY[..., None] * 32767.0 / 255).astype("<i2"), kind=2),
    "8 bits, 0 is white": lambda path: write_tiff(path, 255 - GREY[..., None], photometric=0),
    "16 bits, 0 is white": lambda path: write_tiff(path, (255 - GREY[..., None]).astype("<u2") * 257, photometric=0),
    "float, 0 is white": lambda path: write_tiff(path, 1 - GREY[..., None].astype("<f4") / 255, kind=3, photometric=0),
    "with alpha": lambda path: Image.fromarray(GREY).convert("LA").save(path),
    "16 bits with alpha": lambda path: write_png16(path, np.stack([GREY, GREY], -1).astype(np.uint16) * 257),
}


@pytest.mark.parametrize("kind", GREYS)
def test_greyscale_of_any_depth_is_read_by_its_range(tmp_path, kind):
    GREYS[kind](tmp_path / "a.png")
    (file,) = tmp_path.iterdir()
    read = read_image(file)
    assert read.shape == (3, 6, 8) and read.dtype == torch.uint8
    assert (read.int() - torch.from_numpy(GREY).int()).abs().max() <= 1


COLOURS = {
    "RGB": lambda path: Image.fromarray(BASE).save(path),
    "RGBA": lambda path: Image.fromarray(np.concatenate([BASE, GREY[..., None]], -1)).save(path),
    "CMYK as TIFF": lambda path: Image.fromarray(BASE).convert("CMYK").save(path.with_suffix(".tif")),
    "CMYK as JPEG": lambda path: Image.fromarray(BASE).convert("CMYK").save(path.with_suffix(".jpg"), quality=100),
    "16 bits": lambda path: write_png16(path, BASE.astype(np.uint16) * 257),
    "16 bits as TIFF": lambda path: write_tiff(path, BASE.astype("<u2") * 257, photometric=2),
    "8 bits in planes": lambda path: write_tiff(path, BASE, photometric=2, planes=True),
    "16 bits with alpha": lambda path: write_png16(path, np.repeat(BASE, [1, 1, 2], -1).astype(np.uint16) * 257),
    "palette": lambda path: Image.fromarray(BASE).quantize(256).save(path),
    "palette with alpha": lambda path: Image.fromarray(BASE).quantize(256).save(path, transparency=bytes([0, 128])),
    "palette with one transparent colour": lambda path: Image.fromarray(BASE).quantize(256).save(path, transparency=0),
}


@pytest.mark.parametrize("kind", COLOURS)
def test_colours_are_those_of_the_file(tmp_path, kind):
    COLOURS[kind](tmp_path / "a.png")
    (file,) = tmp_path.iterdir()
    difference = read_image(file).permute(1, 2, 0).int() - torch.from_numpy(BASE).int()
    assert difference.abs().max() <= (12 if "JPEG" in kind else 3 if "palette" in kind else 1)


def test_black_and_white(tmp_path):
    Image.fromarray(GREY > 128).save(tmp_path / "a.png")
    assert set(read_image(tmp_path / "a.png").unique().tolist()) == {0, 255}


def lab(path: Path) -> None:
    Image.frombytes("LAB", (8, 6), BASE.tobytes()).save(path.with_suffix(".tif"))


REFUSED = {
    "negative": (
        lambda path: Image.fromarray(-GREY.astype(np.int32)).save(path.with_suffix(".tif")),
        "has values from -255 to",
    ),
    "NaN": (
        lambda path: Image.fromarray(np.where(GREY > 9, GREY, np.float32("nan"))).save(path.with_suffix(".tif")),
        "has values from nan",
    ),
    "infinite": (
        lambda path: Image.fromarray(np.where(GREY > 9, GREY, np.float32("inf"))).save(path.with_suffix(".tif")),
        "to inf; expected",
    ),
    "float to 1e6": (
        lambda path: Image.fromarray(GREY.astype(np.float32) * 4000).save(path.with_suffix(".tif")),
        "has values up to 1.02e+06; expected at most 65535, or 0 to 1",
    ),
    "32 bits": (
        lambda path: Image.fromarray(GREY.astype(np.int32) << 20).save(path.with_suffix(".tif")),
        "expected at most 65535",
    ),
    "colour of 12 bits in 16": (lambda path: write_png16(path, BASE.astype(np.uint16) * 16), "uses only the lower"),
    "16 bits in planes": (
        lambda path: write_tiff(path, BASE.astype("<u2") * 257, photometric=2, planes=True),
        "stores channels of 16 bits one after another, which Pillow reads wrongly; save it with interleaved",
    ),
    "float colours": (
        lambda path: write_tiff(path, BASE.astype("<f4") / 255, kind=3, photometric=2),
        "of a kind that Pillow does not read",
    ),
    "CIELAB": (lab, "CIELAB"),
    "text": (lambda path: path.write_text("<html>404</html>"), "cannot be read as an image"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_range_that_is_not_known_is_refused_with_the_name_of_the_file(tmp_path, kind):
    write, message = REFUSED[kind]
    write(tmp_path / "a.png")
    (file,) = tmp_path.iterdir()
    with pytest.raises(InputError) as caught:
        read_image(file)
    assert str(caught.value).startswith(f"{file}: ") and message in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_guessed_or_left_out_is_told_once(tmp_path, caplog):
    for number in range(2):
        scaled(12).save(tmp_path / f"{number}.png")
        Image.fromarray(np.concatenate([BASE, GREY[..., None]], -1)).save(tmp_path / f"alpha{number}.png")
    for file in sorted(tmp_path.iterdir()):
        read_image(file)
    depth, alpha = sorted(record.getMessage() for record in caplog.records)
    assert "0.png" in depth and "read as 12 bits" in depth and "alpha0.png: transparent pixels" in alpha
    caplog.clear()
    Image.fromarray(BASE).convert("RGBA").save(tmp_path / "opaque.png")
    scaled(16).save(tmp_path / "full.png")
    for name in ("opaque.png", "full.png"):
        read_image(tmp_path / name)
    assert not caplog.records


def test_a_dark_float_picture_and_further_pages_are_told(tmp_path, caplog):
    Image.fromarray((GREY / 85).astype(np.float32)).save(tmp_path / "dark.tif")
    Image.fromarray(BASE).save(tmp_path / "pages.tif", save_all=True, append_images=[Image.fromarray(255 - BASE)])
    assert read_image(tmp_path / "dark.tif").max() == 3
    assert np.array_equal(read_image(tmp_path / "pages.tif").permute(1, 2, 0), BASE)
    dark, pages = (record.getMessage() for record in caplog.records)
    assert "dark.tif: an image of float32 values up to 3 is read as 8 bits" in dark
    assert "pages.tif: has several pictures (pages or frames), of which the first is read" in pages


TURNED = {"a.png": "RGB", "a.jpg": "RGB", "grey.png": "L", "a.tif": "RGB", "grey.tif": "L", "deep.tif": "I;16"}


@pytest.mark.parametrize("name", TURNED)
@pytest.mark.parametrize("turn", range(1, 9))
def test_an_image_is_turned_as_its_exif_orientation_says(tmp_path, turn, name):
    """The corner that a viewer shows at the top left is white; `corners` has its place in the file."""
    corners = {1: (0, 0), 2: (7, 0), 3: (7, 5), 4: (0, 5), 5: (0, 0), 6: (0, 5), 7: (7, 5), 8: (7, 0)}
    image, exif = Image.new(TURNED[name], (8, 6)), Image.Exif()
    white = {"RGB": (255, 255, 255), "L": 255, "I;16": 65535}[image.mode]
    image.putpixel(corners[turn], white)
    exif[0x0112] = turn
    image.save(tmp_path / name, exif=exif)
    read = read_image(tmp_path / name)
    assert read.shape == ((3, 6, 8) if turn < 5 else (3, 8, 6))
    assert divmod(int(read[0].argmax()), read.shape[2]) == (0, 0)
    assert orientation(tmp_path / name) == turn


def test_a_picture_beyond_pillows_limit_is_said_to_be_so_with_the_way_to_allow_it(tmp_path, monkeypatch):
    Image.new("L", (50, 40)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(InputError, match=r"a\.png: has more than 0 megapixels, Pillow's limit.*MAX_MEGAPIXELS="):
        read_image(tmp_path / "a.png")
    monkeypatch.setenv(pixels.LIMIT, "0.01")
    assert read_image(tmp_path / "a.png").shape == (3, 40, 50)
    monkeypatch.setenv(pixels.LIMIT, "many")
    with pytest.raises(InputError, match="CROSSSTAGE_MAX_MEGAPIXELS=many: expected a number"):
        read_image(tmp_path / "a.png")
