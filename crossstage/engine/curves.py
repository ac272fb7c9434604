"""Draws curves.png: the losses and the AP of a run over its iterations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from crossstage.files import replacing

AP_NAMES = ("AP", "AP50", "AP75")


def draw_curves(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw losses (left, logarithmic: the total and those of the last stage) and APs (right) over the iterations.

    Args:
        rows: the rows of metrics.json; without any, the picture is empty.
        path: the picture to write.
    """
    losses = sorted({name for row in rows for name in row if name == "total_loss" or _of_last_stage(name)})
    scores = [name for name in sorted({name for row in rows for name in row}) if name.split("/")[-1] in AP_NAMES]
    figure = Figure(figsize=(11, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for axes, names, title in ((left, losses, "loss (weighted, median of 20)"), (right, scores, "COCO AP in percent")):
        for name in names:
            points = [(row["iteration"], row[name]) for row in rows if name in row]
            axes.plot(*zip(*points, strict=True), label=name, marker="." if axes is right else None)
        axes.set(title=title, xlabel="iteration")
        axes.grid(alpha=0.3)
        if names:
            axes.legend(fontsize="small")
    if losses:
        left.set_yscale("log")
    right.set_ylim(bottom=0)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=90)


def _of_last_stage(name: str) -> bool:
    return name.startswith("loss_") and name.count("_") == 1
