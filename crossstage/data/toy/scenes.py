"""Draws the scenes of the generated dataset: textured shapes on textured backgrounds (with numpy and PIL).

Only the outline of an object shows its class; colours, texture, size, rotation and place are random. While a scene
grows, its pixels are float32 [H, W, 3] in 0..255, and a map of owners says which object each pixel shows. As in COCO,
the box and the area of an object are those of its visible pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from crossstage.data.toy.outlines import (
    CLASS_NAMES,
    OUTLINES,
    Stencil,
    blob,
    make_stencil,
    part_of_outline,
    random_rotation,
    swarm,
)


@dataclass(frozen=True)
class Preset:
    """Settings that all scenes of a dataset share. Ranges are inclusive.

    Attributes:
        size: longest side of an image in pixels.
        objects: number of objects per image.
        extent: diameter of an object as a share of `size`, drawn log-uniformly.
        visible: share of an object that must stay visible.
        contrast: smallest RGB distance between the colours of an object and the background.
        clutter: number of shapes without a label.
        empty: share of images without objects.
        crowd: share of images with a crowd region.
        stretch: largest ratio of the two axes of a shape.
    """

    size: int
    objects: tuple[int, int]
    extent: tuple[float, float]
    visible: float
    contrast: float
    clutter: tuple[int, int] = (0, 0)
    empty: float = 0.0
    crowd: float = 0.0
    stretch: float = 1.1


PRESETS = {
    "easy": Preset(size=128, objects=(2, 6), extent=(0.2, 0.45), visible=0.9, contrast=110.0),
    "hard": Preset(
        size=320,
        objects=(1, 20),
        extent=(0.05, 0.8),
        visible=0.4,
        contrast=60.0,
        clutter=(4, 14),
        empty=0.04,
        crowd=0.06,
        stretch=1.3,
    ),
}


@dataclass(frozen=True)
class SceneObject:
    """An annotated object: index into `CLASS_NAMES`, box (x, y, width, height) in pixels, visible area in pixels."""

    class_index: int
    box: tuple[float, float, float, float]
    area: float
    is_crowd: bool = False


class Canvas:
    """A scene that grows. `paint` adds a shape on top, unless it would hide too much of an annotated object."""

    def __init__(self, pixels: np.ndarray, visible: float) -> None:
        self.pixels = pixels
        self.owner: np.ndarray = np.zeros(pixels.shape[:2], np.int16)  # 0 = background or clutter
        self.visible = visible
        self._full_areas = [0.0]

    def paint(self, stencil: Stencil, colours: np.ndarray, *, annotated: bool) -> bool:
        """Blend colours through a stencil.

        Args:
            stencil: the mask.
            colours: [h, w, 3], as large as the mask.
            annotated: whether this is an object with a label.

        Returns:
            Whether it was drawn; it is not drawn if it does not fit.
        """
        height, width = self.owner.shape
        top, left = max(stencil.top, 0), max(stencil.left, 0)
        bottom = min(stencil.top + stencil.alpha.shape[0], height)
        right = min(stencil.left + stencil.alpha.shape[1], width)
        if top >= bottom or left >= right:
            return False
        inside = (slice(top - stencil.top, bottom - stencil.top), slice(left - stencil.left, right - stencil.left))
        place = (slice(top, bottom), slice(left, right))
        alpha = stencil.alpha[inside]
        solid = alpha >= 0.5
        full_area = float((stencil.alpha >= 0.5).sum())
        if annotated and (solid.sum() < 12 or solid.sum() < max(self.visible, 0.6) * full_area):
            return False  # too little of it is inside the image
        if self._hides_too_much(self.owner[place][solid]):
            return False
        self.pixels[place] += alpha[..., None] * (colours[inside] - self.pixels[place])
        self.owner[place][solid] = len(self._full_areas) if annotated else 0
        if annotated:
            self._full_areas.append(full_area)
        return True

    def visible_box(self, index: int) -> tuple[tuple[float, float, float, float], float]:
        """(x, y, width, height) and area of the visible part of an annotated object, counted from 1."""
        rows, columns = np.nonzero(self.owner == index)
        x, y = float(columns.min()), float(rows.min())
        return (x, y, float(columns.max() + 1 - x), float(rows.max() + 1 - y)), float(len(rows))

    def _hides_too_much(self, covered: np.ndarray) -> bool:
        counts = np.bincount(covered, minlength=1)
        for index in np.nonzero(counts[1:])[0] + 1:
            left_over = (self.owner == index).sum() - counts[index]
            if left_over < max(12, self.visible * self._full_areas[index]):
                return True
        return False


def draw_scene(rng: np.random.Generator, preset: Preset) -> tuple[np.ndarray, list[SceneObject]]:
    """Draw one image, uint8 [H, W, 3], with the objects that a detector has to find in it."""
    height, width = _image_size(rng, preset.size)
    base = rng.uniform(30, 225, 3)
    canvas = Canvas(_background(rng, base, height, width), preset.visible)
    clutter = int(rng.integers(preset.clutter[0], preset.clutter[1] + 1))
    in_front = int(rng.integers(0, clutter // 4 + 1))
    for _ in range(clutter - in_front):
        _paint_clutter(rng, canvas, preset, base)
    drawn = [] if rng.random() < preset.empty else _paint_objects(rng, canvas, preset, base)
    for _ in range(in_front):
        _paint_clutter(rng, canvas, preset, base)
    objects = []
    for index, (class_index, is_crowd) in enumerate(drawn, start=1):
        box, area = canvas.visible_box(index)
        objects.append(SceneObject(class_index, box, area, is_crowd))
    grain = rng.normal(0, rng.uniform(1, 5), canvas.pixels.shape)
    return np.clip(canvas.pixels + grain, 0, 255).astype(np.uint8), objects


def _image_size(rng: np.random.Generator, longest: int) -> tuple[int, int]:
    short = round(longest * rng.uniform(0.72, 1.0))
    return (longest, short) if rng.random() < 0.4 else (short, longest)


def _paint_objects(
    rng: np.random.Generator, canvas: Canvas, preset: Preset, base: np.ndarray
) -> list[tuple[int, bool]]:
    """Paint the objects, mostly large ones first, so that they do not hide small ones; returns (class, is_crowd)."""
    low, high = preset.objects
    count = low + round((high - low) * rng.random() ** 1.5)  # few objects more often than many
    least, most = np.log(preset.extent)
    radii = 0.5 * preset.size * np.exp(rng.uniform(least, most, count))
    order = np.argsort(-radii * rng.uniform(0.4, 1.6, count))
    drawn: list[tuple[int, bool]] = []
    if rng.random() < preset.crowd:
        drawn += _paint_object(rng, canvas, preset, base, radius=0.2 * preset.size, is_crowd=True)
    for radius in radii[order][: count - len(drawn)]:
        drawn += _paint_object(rng, canvas, preset, base, radius=radius)
    return drawn or _paint_object(rng, canvas, preset, base, radius=radii.min())


def _paint_object(
    rng: np.random.Generator,
    canvas: Canvas,
    preset: Preset,
    base: np.ndarray,
    *,
    radius: float,
    is_crowd: bool = False,
) -> list[tuple[int, bool]]:
    """Try a few places for a random shape; [(class, is_crowd)] if one was found, else []."""
    class_index = int(rng.integers(len(CLASS_NAMES)))
    parts = OUTLINES[CLASS_NAMES[class_index]]
    if is_crowd:
        parts = swarm(rng, parts)
    transform = random_rotation(rng, preset.stretch) * radius
    height, width = canvas.owner.shape
    reach = 0.8 * radius  # how far from the border the centre stays
    for _ in range(12):
        centre = (_between(rng, reach, width), _between(rng, reach, height))
        stencil = make_stencil(parts, transform, centre=centre)
        colours = _texture(rng, stencil.alpha.shape, _contrasting(rng, base, preset.contrast), 0.5 * radius)
        if canvas.paint(stencil, colours, annotated=True):
            return [(class_index, is_crowd)]
    return []


def _paint_clutter(rng: np.random.Generator, canvas: Canvas, preset: Preset, base: np.ndarray) -> None:
    """Paint a shape without a label: a blob, a bar, or a part of an outline. If it does not fit, paint nothing."""
    height, width = canvas.owner.shape
    radius = 0.5 * preset.size * rng.uniform(0.05, 0.3)
    kind = rng.choice(["blob", "bar", "outline"], p=[0.35, 0.2, 0.45])
    stroke = 0.0
    if kind == "blob":
        points = blob(rng)
    elif kind == "bar":
        points = np.array([[-1, -0.14], [1, -0.14], [1, 0.14], [-1, 0.14]])
    else:
        outline = OUTLINES[CLASS_NAMES[int(rng.integers(len(CLASS_NAMES)))]][0][0]
        points = part_of_outline(rng, outline)
        stroke = max(1.0, radius * rng.uniform(0.06, 0.2))
    transform = random_rotation(rng, preset.stretch) * radius
    centre = (rng.uniform(0, width), rng.uniform(0, height))
    stencil = make_stencil(((points, True),), transform, centre=centre, stroke=stroke)
    colours = _texture(rng, stencil.alpha.shape, _contrasting(rng, base, preset.contrast), 0.5 * radius)
    canvas.paint(stencil, colours, annotated=False)


def _between(rng: np.random.Generator, margin: float, length: int) -> float:
    return float(rng.uniform(min(margin, length / 2), max(length - margin, length / 2)))


def _contrasting(rng: np.random.Generator, base: np.ndarray, distance: float) -> np.ndarray:
    """Two colours [2, 3] that differ from `base`, and at least a little from each other."""
    candidates = rng.uniform(0, 255, (64, 3))
    far = candidates[np.linalg.norm(candidates - base, axis=1) >= distance]
    first = far[0] if len(far) else 255.0 - base
    others = far[np.linalg.norm(far - first, axis=1) >= 60] if len(far) else far
    return np.stack([first, others[0] if len(others) else first])


def _texture(rng: np.random.Generator, shape: tuple[int, int], colours: np.ndarray, period: float) -> np.ndarray:
    """Fill [h, w] with two colours by a random pattern of about `period` pixels; float [h, w, 3]."""
    height, width = shape
    angle, phase = rng.uniform(0, math.pi), rng.uniform(0, 1, 2)
    scale = max(3.0, period * rng.uniform(0.6, 1.4))
    y, x = np.mgrid[:height, :width]
    u = (math.cos(angle) * x + math.sin(angle) * y) / scale + phase[0]
    v = (math.cos(angle) * y - math.sin(angle) * x) / scale + phase[1]
    pattern = rng.choice(["plain", "stripes", "checks", "dots", "noise"])
    if pattern == "plain":
        weight = np.zeros(shape)
    elif pattern == "stripes":
        weight = u % 1 < 0.5
    elif pattern == "checks":
        weight = (u % 1 < 0.5) ^ (v % 1 < 0.5)
    elif pattern == "dots":
        weight = np.hypot(u % 1 - 0.5, v % 1 - 0.5) < 0.3
    else:
        weight = _smooth_noise(rng, shape, scale)
    return (colours[0] + weight[..., None] * (colours[1] - colours[0])).astype(np.float32)


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> np.ndarray:
    """Random values in 0..1 that vary over about `scale` pixels; float [h, w]."""
    height, width = shape
    cells = (max(2, round(height / scale) + 1), max(2, round(width / scale) + 1))
    small = Image.fromarray(rng.random(cells, dtype=np.float32))
    return np.clip(np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)), 0, 1)


def _background(rng: np.random.Generator, base: np.ndarray, height: int, width: int) -> np.ndarray:
    """A texture around `base` whose contrast stays below that of the objects; float32 [H, W, 3]."""
    second = base + rng.uniform(-40, 40, 3)
    texture = _texture(rng, (height, width), np.stack([base, second]), rng.uniform(6, 40))
    shade = (_smooth_noise(rng, (height, width), max(height, width) / 3) - 0.5) * rng.uniform(10, 50)
    return texture + shade[..., None].astype(np.float32)
