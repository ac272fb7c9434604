"""Pictures of boxes: detections, annotations, both side by side, and many of them on one sheet.

All functions take and return `PIL.Image` in RGB and leave their inputs as they are. Line widths and letters follow
from the size of the picture; small images are enlarged first, so that one can read what is written on them.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from crossstage.structures import Detections, Target

Colour = tuple[int, int, int]
Rectangle = tuple[float, float, float, float]  # left, top, right, bottom

LEAST_SIDE = 512  # pixels; a longest side below this is enlarged, by a whole number
GOLDEN_ANGLE = 0.381966  # of the colour circle: neighbouring classes are far apart, whatever their number
SHADES = ((0.85, 1.0), (0.50, 1.0), (1.0, 0.78))  # (saturation, value), in turns: similar hues differ in these
MIDDLE_LUMINANCE = 0.18  # black and white letters have equal contrast on it
WHITE, BLACK, GREY = (255, 255, 255), (0, 0, 0), (235, 235, 235)


@dataclass(frozen=True)
class Box:
    """A rectangle to draw, in pixels of the image: its corners (x0, y0, x1, y1), class index and text."""

    corners: Rectangle
    label: int
    text: str


def class_colour(label: int) -> Colour:
    """The colour of a class, always the same; neighbouring classes differ strongly."""
    saturation, value = SHADES[label % len(SHADES)]
    red, green, blue = colorsys.hsv_to_rgb(label * GOLDEN_ANGLE % 1, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def class_name(label: int, class_names: Sequence[str]) -> str:
    """The name of a class, or its number where there is none."""
    return class_names[label] if 0 <= label < len(class_names) else str(label)


def draw_detections(
    image: Image.Image, detections: Detections, class_names: Sequence[str], *, threshold: float = 0.3
) -> Image.Image:
    """Boxes, class names and scores (percent) of the detections that reach `threshold`, the best one on top.

    detections: absolute xyxy of `image`.
    """
    found = detections.to("cpu")
    rows = zip(found.scores.tolist(), found.boxes_xyxy.tolist(), found.labels.tolist(), strict=True)
    shown = sorted((row for row in rows if row[0] >= threshold), key=_first)
    return draw_boxes(
        image,
        [Box(tuple(box), label, f"{class_name(label, class_names)} {score:.0%}") for score, box, label in shown],
    )


def draw_targets(image: Image.Image, target: Target, class_names: Sequence[str]) -> Image.Image:
    """Boxes and class names of the annotations; target: normalised cxcywh of `image`. Large boxes lie below."""
    boxes = []
    for label, (cx, cy, w, h) in zip(target.labels.tolist(), target.boxes.tolist(), strict=True):
        corners = (cx - w / 2) * image.width, (cy - h / 2) * image.height
        far = (cx + w / 2) * image.width, (cy + h / 2) * image.height
        boxes.append(Box((*corners, *far), label, class_name(label, class_names)))
    return draw_boxes(image, sorted(boxes, key=_area, reverse=True))


def draw_boxes(image: Image.Image, boxes: Sequence[Box]) -> Image.Image:
    """Draw rectangles, later ones on top, then their texts, which avoid each other and stay inside of the picture."""
    picture, scale = _enlarged(image)
    draw = ImageDraw.Draw(picture)
    line = max(3, round(max(picture.size) / 250))
    font = _font(max(13, round(max(picture.size) / 38)))
    scaled = [_clipped([value * scale for value in box.corners], picture.size) for box in boxes]
    for box, corners in zip(boxes, scaled, strict=True):
        _frame(draw, corners, line, class_colour(box.label))
    taken: list[Rectangle] = []
    for box, corners in reversed(list(zip(boxes, scaled, strict=True))):  # the best one chooses first
        taken.append(_place(_tag_size(font, box.text), corners, picture.size, taken))
    for box, tag in zip(boxes, reversed(taken), strict=True):
        _write(draw, tag, box.text, font, class_colour(box.label))
    return picture


def with_caption(image: Image.Image, caption: str) -> Image.Image:
    """`image` below a line of text, which is shortened if it is too long."""
    height = max(18, round(max(image.size) / 24))
    font = _font(round(height * 0.7))
    while len(caption) > 1 and font.getlength(caption) > image.width - 8:
        caption = caption[:-2].rstrip("…") + "…"
    picture = Image.new("RGB", (image.width, image.height + height), WHITE)
    picture.paste(image, (0, height))
    ImageDraw.Draw(picture).text((4, height / 2), caption, fill=BLACK, font=font, anchor="lm")
    return picture


def side_by_side(left: Image.Image, right: Image.Image, *, gap: int = 6) -> Image.Image:
    """Two pictures next to each other, tops aligned: the truth and what was detected."""
    size = (left.width + gap + right.width, max(left.height, right.height))
    picture = Image.new("RGB", size, WHITE)
    picture.paste(left, (0, 0))
    picture.paste(right, (left.width + gap, 0))
    return picture


def contact_sheet(
    images: Sequence[Image.Image], *, columns: int | None = None, cell: int | None = None, gap: int = 10
) -> Image.Image:
    """Pictures in a grid, row by row. cell: longest side of a picture in pixels; None = as large as fits a wide screen.

    columns: None = about as wide as high. Raises ValueError without any picture.
    """
    if not images:
        raise ValueError("a contact sheet needs at least one picture")
    shape = max(image.width / image.height for image in images)
    if columns is None:
        columns = max(1, min(len(images), round((len(images) / shape * 1.6) ** 0.5)))
    if cell is None:
        cell = min(max(max(image.size) for image in images), round(2400 / columns))
    shrunk = [_fitted(image, cell) for image in images]
    rows = [shrunk[start : start + columns] for start in range(0, len(shrunk), columns)]
    width = max(image.width for image in shrunk)
    heights = [max(image.height for image in row) for row in rows]
    used = min(columns, len(shrunk))
    sheet = Image.new("RGB", (used * (width + gap) + gap, sum(heights) + gap * (len(rows) + 1)), GREY)
    top = gap
    for row, height in zip(rows, heights, strict=True):
        for column, image in enumerate(row):
            sheet.paste(image, (gap + column * (width + gap) + (width - image.width) // 2, top))
        top += height + gap
    return sheet


def _first(row: tuple[float, ...]) -> float:
    return row[0]


def _area(box: Box) -> float:
    x0, y0, x1, y1 = box.corners
    return (x1 - x0) * (y1 - y0)


def _enlarged(image: Image.Image) -> tuple[Image.Image, int]:
    """An RGB copy, enlarged by a whole number if it is small, and that number."""
    scale = max(1, -(-LEAST_SIDE // max(image.size))) if max(image.size) < 400 else 1
    picture = image.convert("RGB")
    if scale == 1:
        return picture.copy(), 1
    return picture.resize((image.width * scale, image.height * scale), Image.Resampling.BICUBIC), scale


def _fitted(image: Image.Image, longest: int) -> Image.Image:
    """Shrunk so that no side exceeds `longest`; never enlarged."""
    scale = min(1.0, longest / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB") if scale == 1 else image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font that comes with Pillow."""
    return ImageFont.load_default(size)


def _clipped(corners: Sequence[float], size: tuple[int, int]) -> Rectangle:
    """Whole pixels inside of the picture, ordered, at least one pixel."""
    x0, x1 = (min(max(round(value), 0), size[0] - 1) for value in sorted((corners[0], corners[2])))
    y0, y1 = (min(max(round(value), 0), size[1] - 1) for value in sorted((corners[1], corners[3])))
    return x0, y0, x1, y1


def _frame(draw: ImageDraw.ImageDraw, corners: Rectangle, line: int, colour: Colour) -> None:
    """A coloured rectangle between two thin dark ones, visible on any background."""
    x0, y0, x1, y1 = corners
    draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=BLACK, width=1)
    inner = (x0 + line, y0 + line, x1 - line, y1 - line)
    if inner[2] > inner[0] and inner[3] > inner[1]:
        draw.rectangle(inner, outline=BLACK, width=1)
    draw.rectangle(corners, outline=colour, width=line)


def _tag_size(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, text: str) -> tuple[float, float]:
    left, top, right, bottom = font.getbbox(text or " ")
    letters = font.getbbox("Äg")  # all tags of a picture have one height
    return right - left + 6, max(bottom - top, letters[3] - letters[1]) + 5


def _place(
    tag: tuple[float, float], corners: Rectangle, size: tuple[int, int], taken: Sequence[Rectangle]
) -> Rectangle:
    """Where a tag goes: at a corner of its box, where it covers the least of those that are there already.

    In order of preference: above the box, inside at the top, below, inside at the bottom; left, then right.
    """
    width, height = tag
    x0, y0, x1, y1 = corners
    best, least = corners, float("inf")
    for top in (y0 - height, y0, y1, y1 - height):
        for left in (x0, x1 - width):
            place = _moved_inside((left, top, left + width, top + height), size)
            pushed = abs(place[1] - top) + abs(place[0] - left)
            covered = sum(_overlap(place, other) for other in taken) + 0.1 * pushed * width
            if covered < least:
                best, least = place, covered
    return best


def _moved_inside(place: Rectangle, size: tuple[int, int]) -> Rectangle:
    """Shifted into the picture; what is larger than the picture begins at its left or top."""
    x0, y0, x1, y1 = place
    left = max(0, min(x0, size[0] - (x1 - x0)))
    top = max(0, min(y0, size[1] - (y1 - y0)))
    return left, top, left + x1 - x0, top + y1 - y0


def _overlap(first: Rectangle, second: Rectangle) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(0, width) * max(0, height)


def _write(
    draw: ImageDraw.ImageDraw,
    tag: Rectangle,
    text: str,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    colour: Colour,
) -> None:
    """Text on a ground of the class's colour: black or white, whichever reads better."""
    draw.rectangle(tag, fill=colour, outline=BLACK, width=1)
    ink = BLACK if _luminance(colour) > MIDDLE_LUMINANCE else WHITE
    draw.text((tag[0] + 3, (tag[1] + tag[3]) / 2), text, fill=ink, font=font, anchor="lm")


def _luminance(colour: Colour) -> float:
    """Relative luminance as WCAG 2 defines it, 0 to 1; the gamma curve without its linear foot."""
    red, green, blue = ((channel / 255) ** 2.2 for channel in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
