"""Figures fit for a paper: in the width of a column or a page, letters of 8 points, as PNG and PDF."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from cycler import cycler
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from PIL import Image

from crossstage.files import replacing, write_text

COLUMN, PAGE = 3.35, 6.9
"""Width of a column and of the text of a two-column page, in inches."""
POINTS, RESOLUTION = 8, 300
"""Size of all letters in points, and of pictures in dots per inch."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colours that colour-blind readers can tell apart (Okabe and Ito)."""

STYLE: Any = {
    **dict.fromkeys(
        ("font.size", "axes.titlesize", "axes.labelsize", "xtick.labelsize", "ytick.labelsize", "legend.fontsize"),
        POINTS,
    ),
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "pdf.fonttype": 42,  # letters stay letters: publishers refuse the default
}


@contextmanager
def paper_figure(
    stem: Path, *, rows: int = 1, columns: int = 1, width: float = COLUMN, height: float = 2.2
) -> Iterator[np.ndarray]:
    """Draw into the axes that this yields; afterwards STEM.png and STEM.pdf are written.

    Args:
        stem: the path without its suffix.
        rows: rows of axes.
        columns: columns of axes.
        width: in inches.
        height: in inches.

    Yields:
        The axes, an array [rows, columns].
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure.subplots(rows, columns, squeeze=False)
        for kind in ("png", "pdf"):
            with replacing(stem.with_suffix(f".{kind}")) as temporary:
                figure.savefig(temporary, format=kind, dpi=RESOLUTION)


def spread_out(axes: Any, values: Iterable[float]) -> None:
    """Make the vertical axis logarithmic where positive values differ by more than a factor of ten, else from 0."""
    positive = [float(value) for value in values if value > 0]
    if positive and max(positive) > 10 * min(positive):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")  # exponents would have smaller letters
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(bottom=0)


def show_picture(axes: Any, picture: Image.Image) -> None:
    """Show a picture without ticks and frame; the axes then count its pixels, from its left upper corner."""
    width, height = picture.size
    axes.imshow(picture, extent=(0, width, height, 0))
    axes.set(xlim=(0, width), ylim=(height, 0))
    bare(axes)


def bare(axes: Any) -> None:
    """Hide ticks and frame."""
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)


def write_numbers(path: Path, numbers: Mapping[str, Any]) -> None:
    """Write the numbers of a figure as JSON; tensors and arrays become lists, and NaN becomes null."""
    write_text(path, json.dumps(_plain(numbers), indent=1, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
