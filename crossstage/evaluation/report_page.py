"""The page of a report: index.html, its two charts, and the worst pictures."""

from __future__ import annotations

import html
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torchvision.transforms.v2.functional import to_pil_image

from crossstage.data.coco import read_image
from crossstage.errors import InputError
from crossstage.evaluation.mistakes import Judgement, Scene
from crossstage.files import replacing, write_text
from crossstage.fonts import chart_text
from crossstage.visualize import Box, draw_boxes, drawn_name, side_by_side, with_caption

if TYPE_CHECKING:
    from crossstage.evaluation.report import Report

logger = logging.getLogger("crossstage.evaluation")

CURVES = 20  # classes in the chart of precision over recall, those with the most objects
NAMED = 30  # classes up to which the confusion matrix has names and numbers
STYLE = (
    "body{font-family:sans-serif;max-width:1200px;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse}td,th{padding:.2em .8em;text-align:right;border-bottom:1px solid #ddd}"
    "td:first-child,th:first-child{text-align:left}img{max-width:100%}"
)
MEANING = {
    "classification": "right place, wrong class",
    "localisation": "right class, IoU between 0.1 and 0.5",
    "both": "wrong class and IoU below 0.5",
    "duplicate": "an object that a better detection has already",
    "background": "no object there",
    "missed": "objects without any detection of the kinds above",
}


def write_page(
    report: Report, folder: Path, *, files: Mapping[int, Path], about: Mapping[str, Any], threshold: float
) -> Path:
    """Write index.html and its pictures.

    Args:
        report: the numbers.
        folder: an existing folder.
        files: the image files by image id.
        about: where the numbers come from.
        threshold: lowest score of the detections in the pictures, for the page's text.

    Returns:
        The page.
    """
    names = [str(entry["name"]) for entry in report.classes]
    _save(folder / "precision.png", _precision_chart(report, names))
    _save(folder / "confusion.png", _confusion_chart(report.confusion, names))
    pictures = []
    (folder / "pictures").mkdir(exist_ok=True)
    for scene, judgement, cost in report.worst:
        name = f"pictures/{scene.image_id}.jpg"
        try:
            image = to_pil_image(read_image(files[scene.image_id]))
        except InputError as error:
            logger.warning(f"not in the report: {error}")
            continue
        with replacing(folder / name) as temporary:
            drawn(image, scene, judgement, names, threshold=threshold).save(temporary, format="JPEG", quality=88)
        caption = f"{files[scene.image_id].name} (image {scene.image_id}): {_counts(judgement)}"
        pictures.append(f'<p>{html.escape(caption)}, weight {cost:.1f}</p>\n<img src="{name}">')
    page = folder / "index.html"
    write_text(page, _page(report, about, pictures, threshold))
    return page


def drawn(
    image: Image.Image, scene: Scene, judgement: Judgement, class_names: Sequence[str], *, threshold: float
) -> Image.Image:
    """The objects of an image (left; missed ones are marked) next to its detections with their kinds (right)."""
    objects = [
        Box(tuple(box), int(label), drawn_name(int(label), class_names) + " MISSED" * (index in judgement.missed))
        for index, (box, label) in enumerate(zip(scene.object_boxes_xyxy.tolist(), scene.object_labels, strict=True))
    ]
    rows = zip(scene.boxes_xyxy.tolist(), scene.labels, scene.scores.tolist(), judgement.kinds, strict=True)
    found = [
        Box(
            tuple(box),
            int(label),
            f"{drawn_name(int(label), class_names)} {score:.0%}" + (f" {kind}" if kind != "hit" else ""),
        )
        for box, label, score, kind in rows
    ]
    return side_by_side(
        with_caption(draw_boxes(image, objects), "objects"),
        with_caption(draw_boxes(image, found[::-1]), f"detections with a score of at least {threshold:g}"),
    )


def _page(report: Report, about: Mapping[str, Any], pictures: Sequence[str], threshold: float) -> str:
    kinds = [
        [kind, MEANING[kind], f"{row['count']:.0f}", f"{row['count_above_threshold']:.0f}", f"{row['cost_ap50']:+.2f}"]
        for kind, row in report.mistakes.items()
    ]
    classes = [
        [entry["name"], entry["objects"], *("-" if entry[k] is None else f"{entry[k]:.2f}" for k in ("AP", "AP50"))]
        for entry in report.classes
    ]
    origin = [[key, value] for key, value in about.items()]
    at_least = f"score at least {threshold:g}"
    return "\n".join(
        [
            f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Evaluation</title><style>{STYLE}</style>',
            f"<h1>AP50 {report.ap50:.2f}</h1>",
            _table(["", ""], origin),
            "<h2>Mistakes</h2>",
            "<p>The cost is the AP50 that would be gained if the mistakes of this kind alone were corrected.</p>",
            _table(["kind", "meaning", "number", at_least, "cost in AP50"], kinds),
            "<h2>Classes</h2>",
            _table(["class", "objects", "AP", "AP50"], classes),
            '<h2>Precision over recall, IoU 0.5</h2>\n<img src="precision.png">',
            f'<h2>Confusion, {at_least}, IoU 0.5</h2>\n<img src="confusion.png">',
            "<h2>Pictures with the heaviest mistakes</h2>",
            *pictures,
            "</html>\n",
        ]
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    def line(cells: Sequence[Any], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"

    return "<table>\n" + "\n".join([line(header, "th"), *(line(row, "td") for row in rows)]) + "\n</table>"


def _counts(judgement: Judgement) -> str:
    kinds = [*judgement.kinds, *["missed"] * len(judgement.missed)]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in MEANING if kind in kinds)


def _precision_chart(report: Report, names: Sequence[str]) -> Figure:
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    by_size = sorted(range(len(names)), key=lambda index: -report.classes[index]["objects"])
    for index in [index for index in by_size if report.classes[index]["objects"]][:CURVES]:
        name = chart_text(names[index], otherwise=str(index))
        axes.plot(np.linspace(0, 1, 101), report.precision[:, index], label=name)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize="small", ncols=2)
    return figure


def _confusion_chart(counts: np.ndarray, names: Sequence[str]) -> Figure:
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(14.0, 3 + 0.45 * len(counts))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="detected as", ylabel="object")
    if len(names) <= NAMED:
        labels = [*(chart_text(name, otherwise=str(index)) for index, name in enumerate(names)), "nothing"]
        axes.set_xticks(range(len(labels)), labels, rotation=90)
        axes.set_yticks(range(len(labels)), labels)
        for row, column in np.argwhere(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, counts[row, column], ha="center", va="center", color=colour, fontsize="small")
    return figure


def _save(path: Path, figure: Figure) -> None:
    FigureCanvasAgg(figure)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=90)
