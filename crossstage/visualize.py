"""Pictures of boxes: detections, annotations, two pictures next to each other, and many pictures on one sheet.

All functions take and return `PIL.Image` in RGB and do not change their inputs. The widths of lines and the sizes of
letters depend on the size of the picture. Small images are enlarged first, so that the text on them is readable.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from crossstage.fonts import Font, default_font, font_for
from crossstage.structures import Detections, Target

Colour = tuple[int, int, int]
Rectangle = tuple[float, float, float, float]  # left, top, right, bottom

LEAST_SIDE = 512  # pixels; small images are enlarged by a whole number to at least this longest side
GOLDEN_ANGLE = 0.381966  # share of the colour circle between neighbouring classes, which are far apart for any number
SHADES = ((0.85, 1.0), (0.50, 1.0), (1.0, 0.78))  # (saturation, value) in rotation, so that similar hues differ
MIDDLE_LUMINANCE = 0.18  # on this luminance, black and white letters have the same contrast
WHITE, BLACK, GREY = (255, 255, 255), (0, 0, 0), (235, 235, 235)


@dataclass(frozen=True)
class Box:
    """A rectangle to draw: its corners (x0, y0, x1, y1) in pixels of the image, its class index and its text."""

    corners: Rectangle
    label: int
    text: str


def class_colour(label: int) -> Colour:
    """The colour of a class; it is always the same, and neighbouring classes differ strongly."""
    saturation, value = SHADES[label % len(SHADES)]
    red, green, blue = colorsys.hsv_to_rgb(label * GOLDEN_ANGLE % 1, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def class_name(label: int, class_names: Sequence[str]) -> str:
    """The name of a class, or its number if it has no name."""
    return class_names[label] if 0 <= label < len(class_names) else str(label)


def drawn_name(label: int, class_names: Sequence[str]) -> str:
    """The name of a class as it can be drawn: its number if no font has the letters of its name."""
    name = class_name(label, class_names)
    return name if font_for(name, 16) is not None else str(label)


def draw_detections(
    image: Image.Image, detections: Detections, class_names: Sequence[str], *, threshold: float = 0.3
) -> Image.Image:
    """Draw the boxes, class names and scores (in percent) of detections, the best one on top.

    Args:
        image: the image.
        detections: in pixels of `image`.
        class_names: by class index.
        threshold: lowest score that is drawn.

    Returns:
        A new picture.
    """
    found = detections.to("cpu")
    rows = zip(found.scores.tolist(), found.boxes_xyxy.tolist(), found.labels.tolist(), strict=True)
    shown = sorted((row for row in rows if row[0] >= threshold), key=_first)
    return draw_boxes(
        image,
        [Box(tuple(box), label, f"{drawn_name(label, class_names)} {score:.0%}") for score, box, label in shown],
    )


def draw_targets(image: Image.Image, target: Target, class_names: Sequence[str]) -> Image.Image:
    """Draw the boxes and class names of annotations, small boxes on top.

    Args:
        image: the image.
        target: the objects of the image.
        class_names: by class index.

    Returns:
        A new picture.
    """
    boxes = []
    for label, (cx, cy, w, h) in zip(target.labels.tolist(), target.boxes.tolist(), strict=True):
        corners = (cx - w / 2) * image.width, (cy - h / 2) * image.height
        far = (cx + w / 2) * image.width, (cy + h / 2) * image.height
        boxes.append(Box((*corners, *far), label, drawn_name(label, class_names)))
    return draw_boxes(image, sorted(boxes, key=_area, reverse=True))


def draw_boxes(image: Image.Image, boxes: Sequence[Box]) -> Image.Image:
    """Draw rectangles, later ones on top, then their texts, which overlap little and stay inside the picture."""
    picture, scale = _enlarged(image)
    draw = ImageDraw.Draw(picture)
    line = max(3, round(max(picture.size) / 250))
    size = max(13, round(max(picture.size) / 38))
    fonts = [_font(box.text, size) for box in boxes]
    scaled = [_clipped([value * scale for value in box.corners], picture.size) for box in boxes]
    for box, corners in zip(boxes, scaled, strict=True):
        _frame(draw, corners, line, class_colour(box.label))
    taken: list[Rectangle] = []
    for box, corners, font in reversed(list(zip(boxes, scaled, fonts, strict=True))):  # the best one chooses first
        taken.append(place_tag(_tag_size(font, box.text), corners, picture.size, taken))
    for box, tag, font in zip(boxes, reversed(taken), fonts, strict=True):
        _write(draw, tag, box.text, font, class_colour(box.label))
    return picture


def with_caption(image: Image.Image, caption: str) -> Image.Image:
    """A new picture: a line of text, shortened if it is too long, and the image below it."""
    height = max(18, round(max(image.size) / 24))
    font = _font(caption, round(height * 0.7))
    while len(caption) > 1 and font.getlength(caption) > image.width - 8:
        caption = caption[:-2].rstrip("…") + "…"
    picture = Image.new("RGB", (image.width, image.height + height), WHITE)
    picture.paste(image, (0, height))
    ImageDraw.Draw(picture).text((4, height / 2), caption, fill=BLACK, font=font, anchor="lm")
    return picture


def side_by_side(left: Image.Image, right: Image.Image, *, gap: int = 6) -> Image.Image:
    """A new picture: two pictures next to each other, with aligned tops and `gap` pixels between them."""
    size = (left.width + gap + right.width, max(left.height, right.height))
    picture = Image.new("RGB", size, WHITE)
    picture.paste(left, (0, 0))
    picture.paste(right, (left.width + gap, 0))
    return picture


def contact_sheet(
    images: Sequence[Image.Image], *, columns: int | None = None, cell: int | None = None, gap: int = 10
) -> Image.Image:
    """Pictures in a grid, row by row.

    Args:
        images: the pictures.
        columns: number of columns; None makes the sheet a little wider than high.
        cell: longest side of a picture in pixels; None makes the sheet about 2400 pixels wide.
        gap: pixels between pictures.

    Returns:
        The sheet.

    Raises:
        ValueError: if there is no picture.
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
    """The image, shrunk if a side exceeds `longest`; it is never enlarged."""
    scale = min(1.0, longest / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB") if scale == 1 else image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _font(text: str, size: int) -> Font:
    """A font with the letters of a text, or else the one that comes with Pillow."""
    return font_for(text, size) or default_font(size)


def _clipped(corners: Sequence[float], size: tuple[int, int]) -> Rectangle:
    """The corners rounded to whole pixels inside the picture, in ascending order."""
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


def _tag_size(font: Font, text: str) -> tuple[float, float]:
    left, top, right, bottom = font.getbbox(text or " ")
    letters = font.getbbox("Äg")  # all tags of a picture have one height
    return right - left + 6, max(bottom - top, letters[3] - letters[1]) + 5


def place_tag(
    tag: tuple[float, float], corners: Rectangle, size: tuple[int, int], taken: Sequence[Rectangle]
) -> Rectangle:
    """The place of a tag: the corner of its box where it covers the least of the tags before it.

    In order of preference: above the box, inside at the top, below, inside at the bottom, each left before right; and
    only if all of these cover a tenth of a tag more: to the right and to the left of the box.

    Args:
        tag: its width and height, in pixels.
        corners: of the box.
        size: of the picture.
        taken: the places of the tags before it.

    Returns:
        The tag's rectangle, inside the picture.
    """
    width, height = tag
    x0, y0, x1, y1 = corners
    best, least = corners, float("inf")
    close = [(left, top, 0.0) for top in (y0 - height, y0, y1, y1 - height) for left in (x0, x1 - width)]
    beside = [(left, top, 0.1 * width * height) for left in (x1, x0 - width) for top in (y0, y1 - height)]
    for left, top, price in close + beside:
        place = _moved_inside((left, top, left + width, top + height), size)
        pushed = abs(place[1] - top) + abs(place[0] - left)
        covered = price + sum(_overlap(place, other) for other in taken) + 0.1 * pushed * width
        if covered < least:
            best, least = place, covered
    return best


def _moved_inside(place: Rectangle, size: tuple[int, int]) -> Rectangle:
    """The rectangle, shifted into the picture. If it is too large, it begins at the left or top of the picture."""
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
    font: Font,
    colour: Colour,
) -> None:
    """Write text on the colour of the class, in black or white, whichever has the higher contrast."""
    draw.rectangle(tag, fill=colour, outline=BLACK, width=1)
    ink = BLACK if _luminance(colour) > MIDDLE_LUMINANCE else WHITE
    draw.text((tag[0] + 3, (tag[1] + tag[3]) / 2), text, fill=ink, font=font, anchor="lm")


def _luminance(colour: Colour) -> float:
    """Relative luminance as WCAG 2 defines it, 0 to 1, but with a gamma curve that has no linear part near 0."""
    red, green, blue = ((channel / 255) ** 2.2 for channel in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
