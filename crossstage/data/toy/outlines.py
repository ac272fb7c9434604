"""Outlines of the classes and of the clutter of the generated dataset, and masks from outlines.

Outlines are inside the unit disc, with y downwards. A transform [2, 2] and a centre put them into an image.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

Points = np.ndarray  # float [V, 2], (x, y) inside the unit disc
Part = tuple[Points, bool]  # a polygon that is filled (True) or cut out (False)

SUPERSAMPLING = 4


def _regular(corners: int, radius: float = 1.0) -> Points:
    angles = np.arange(corners) * (2 * math.pi / corners)
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _star() -> Points:
    points = _regular(10)
    points[1::2] *= 0.42
    return points


def _cross() -> Points:
    arm, half = 0.94, 0.32
    quarter = np.array([[arm, -half], [arm, half], [half, half]])
    turns = [np.array([[c, -s], [s, c]]) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))]
    return np.concatenate([quarter @ turn.T for turn in turns])


def _arrow() -> Points:
    half = np.array([[1.0, 0.0], [0.15, 0.75], [0.15, 0.28], [-0.95, 0.28]])
    return np.concatenate([half, half[:0:-1] * (1, -1)])


OUTLINES: dict[str, tuple[Part, ...]] = {
    "circle": ((_regular(48), True),),
    "square": ((_regular(4), True),),
    "triangle": ((_regular(3), True),),
    "star": ((_star(), True),),
    "cross": ((_cross(), True),),
    "ring": ((_regular(48), True), (_regular(48, 0.55), False)),
    "crescent": ((_regular(48), True), (_regular(48, 0.82) + (0.5, 0.0), False)),
    "arrow": ((_arrow(), True),),
}
CLASS_NAMES = tuple(OUTLINES)


@dataclass(frozen=True)
class Stencil:
    """A mask and its place: alpha [h, w] in 0..1, with its corner at (left, top), which may be outside the image."""

    alpha: np.ndarray
    left: int
    top: int


def make_stencil(
    parts: tuple[Part, ...], transform: np.ndarray, *, centre: tuple[float, float], stroke: float = 0.0
) -> Stencil:
    """Rasterise outlines.

    Args:
        parts: the polygons.
        transform: [2, 2], rotation and size.
        centre: (x, y) in the image.
        stroke: width of a line along the outlines in pixels; 0 fills them instead.

    Returns:
        The mask.
    """
    moved = [(points @ transform.T + centre, filled) for points, filled in parts]
    everything = np.concatenate([points for points, _ in moved])
    margin = 1 + stroke
    left, top = np.floor(everything.min(0) - margin).astype(int)
    right, bottom = np.ceil(everything.max(0) + margin).astype(int)
    image = Image.new("L", ((right - left) * SUPERSAMPLING, (bottom - top) * SUPERSAMPLING))
    draw = ImageDraw.Draw(image)
    for points, filled in moved:
        corners = [tuple(point) for point in (points - (left, top)) * SUPERSAMPLING]
        if stroke:
            draw.line(corners, fill=255, width=max(1, round(stroke * SUPERSAMPLING)))
        else:
            draw.polygon(corners, fill=255 if filled else 0)
    alpha = np.asarray(image.reduce(SUPERSAMPLING), np.float32) / 255
    return Stencil(alpha, int(left), int(top))


def swarm(rng: np.random.Generator, parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """Many small copies of one outline, scattered over the unit disc."""
    copies: list[Part] = []
    for _ in range(int(rng.integers(12, 22))):
        angle, distance = rng.uniform(0, 2 * math.pi), math.sqrt(rng.random())
        place = 0.85 * distance * np.array([math.cos(angle), math.sin(angle)])
        transform = random_rotation(rng, 1.2) * rng.uniform(0.1, 0.16)
        copies += [(points @ transform.T + place, filled) for points, filled in parts]
    return tuple(copies)


def blob(rng: np.random.Generator) -> Points:
    """A smooth random closed curve."""
    angles = np.arange(40) * (2 * math.pi / 40)
    radii = 0.7 + sum(rng.uniform(-0.3, 0.3) / k * np.cos(k * angles + rng.uniform(0, 6.3)) for k in (1, 2, 3))
    return radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def part_of_outline(rng: np.random.Generator, outline: Points) -> Points:
    """A connected 35 to 65 % of a closed curve."""
    closed = np.concatenate([outline, outline[:1]])
    steps = np.linspace(0, 1, 12, endpoint=False)[:, None]
    dense = np.concatenate([a + steps * (b - a) for a, b in itertools.pairwise(closed)])
    start, length = int(rng.integers(len(dense))), int(len(dense) * rng.uniform(0.35, 0.65))
    return np.roll(dense, -start, axis=0)[: max(length, 2)]


def random_rotation(rng: np.random.Generator, stretch: float) -> np.ndarray:
    """[2, 2]: stretch along a random axis, then a random rotation; neither makes a shape larger than its radius."""
    ratio = 1 / rng.uniform(1, stretch)
    angle = rng.uniform(0, 2 * math.pi)
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.array([[cosine, -sine], [sine, cosine]]) @ np.diag([1.0, ratio])
