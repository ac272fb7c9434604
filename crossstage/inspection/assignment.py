"""Who is taught what, drawn on the picture: `crossstage inspect assignment` (StageInteractor, Figure 2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle as Patch
from PIL import Image
from torch import Tensor

from crossstage.fonts import chart_text
from crossstage.inspection.figures import COLOURS, PAGE, POINTS, bare, paper_figure, show_picture, write_numbers
from crossstage.inspection.pictures import corners_in, picture_of
from crossstage.inspection.stages import EveryStage
from crossstage.layers.stage_overlap import stage_overlap
from crossstage.structures import Assignment, ImageBatch, PaddedTargets, StageOutputs
from crossstage.visualize import Rectangle, class_name, place_tag

MATCH, COPY, OTHER_STAGE, OTHER = "own match", "copy", "other stage (CSLA)", "other rule"
PANELS = 4
DASHES = (0, (3, 1.5))
ORIGINS = {MATCH: COLOURS[2], COPY: COLOURS[4], OTHER_STAGE: COLOURS[1], OTHER: COLOURS[3]}


@dataclass(frozen=True)
class Positive:
    """A class target above 0.

    Attributes:
        stage: index of the stage.
        query: index of the query.
        label: class index.
        value: the target, in (0, 1].
        object: index of the object that it comes from, or -1 if no stage of the query matched one of this class.
        overlap: IoU of the query's box at this stage with the object; 0 without an object.
        origin: how the query got it. "own match": its match at this stage; where an object has several queries at
            this stage, the one that overlaps it most. "copy": another query of such an object. "other stage (CSLA)":
            the match of another stage. "other rule": neither.
    """

    stage: int
    query: int
    label: int
    value: float
    object: int
    overlap: float
    origin: str


def positives_of(
    outputs: StageOutputs, targets: PaddedTargets, assignment: Assignment, *, image: int
) -> list[Positive]:
    """All class targets above 0 of one image, by stage and query: as many as `(labels[:, image] > 0).sum()`.

    Args:
        outputs: the predictions.
        targets: the objects as the query group sees them.
        assignment: after the label rules.
        image: index in the batch.

    Returns:
        The targets, each with the object that it comes from and how.
    """
    assert assignment.labels is not None  # the rules have set them
    boxes, objects = outputs.boxes[:, image, None].detach(), targets.boxes[image, None].to(outputs.boxes.dtype)
    matches = assignment.matches[:, image].cpu()
    overlap = stage_overlap(boxes, assignment.matches[:, image, None], objects)[:, :, 0].cpu()  # [S (i), S (j), N]
    sources = _sources(assignment, image, len(matches))
    classes = targets.labels[image].cpu()
    labels = assignment.labels[:, image].float().cpu()
    return [
        _positive(stage, query, label, float(labels[stage, query, label]), matches, overlap, sources, classes)
        for stage, query, label in (labels > 0).nonzero().tolist()
    ]


def _positive(
    stage: int,
    query: int,
    label: int,
    value: float,
    matches: Tensor,
    overlap: Tensor,
    sources: Tensor,
    classes: Tensor,
) -> Positive:
    """One class target with its origin.

    Args:
        stage: index of the stage.
        query: index of the query.
        label: class index.
        value: the target.
        matches: int64 [S, N].
        overlap: IoU of the box of stage i with the object of stage j, [S (i), S (j), N].
        sources: bool [S (i), S (j), N], the stages that give labels.
        classes: int64 [T], of the objects.
    """
    giving = [
        other
        for other in sources[stage, :, query].nonzero().flatten().tolist()
        if matches[other, query] >= 0 and int(classes[matches[other, query]]) == label
    ]
    if not giving:
        return Positive(stage, query, label, value, -1, 0.0, OTHER)
    source = stage if stage in giving else max(giving, key=lambda other: float(overlap[stage, other, query]))
    found = int(matches[source, query])
    origin = OTHER_STAGE
    if source == stage:
        rivals = overlap[stage, stage].masked_fill(matches[stage] != found, -1)
        origin = MATCH if int(rivals.argmax()) == query else COPY
    return Positive(stage, query, label, value, found, float(overlap[stage, source, query]), origin)


def _sources(assignment: Assignment, image: int, stages: int) -> Tensor:
    """bool [S (i), S (j), N]: the stages from which each stage takes labels."""
    if assignment.label_stages is not None:
        return assignment.label_stages[:, :, image].cpu()
    own = torch.eye(stages, dtype=torch.bool)[:, :, None]
    return own.expand(-1, -1, assignment.matches.shape[-1])


def draw_assignment(
    picture: Image.Image,
    found: EveryStage,
    positives: Sequence[Positive],
    targets: PaddedTargets,
    stem: Path,
    *,
    stages: Sequence[int],
    class_names: Sequence[str],
) -> int:
    """Draw the first image of a batch: its objects, then one panel per stage; four panels in a row.

    A box is dashed unless it is the query's own match, and has the number of its object and their IoU.

    Args:
        picture: the image.
        found: the predictions.
        positives: what is drawn, from `positives_of`.
        targets: the objects.
        stem: of the files to write.
        stages: indices of the stages that are drawn.
        class_names: by class index.

    Returns:
        How many boxes are drawn.
    """
    columns, drawn = min(len(stages) + 1, PANELS), 0
    rows = -(-(len(stages) + 1) // columns)
    height = rows * (PAGE / columns * picture.height / picture.width + 0.2) + 0.4
    letter = POINTS * picture.width * columns / (72 * PAGE)  # pixels of the picture, a little more than drawn
    with paper_figure(stem, rows=rows, columns=columns, width=PAGE, height=height) as grid:
        first, *others = grid.flat
        for axes in grid.flat:
            bare(axes)
        show_picture(first, picture)
        boxes = corners_in(picture, targets.boxes[0, : targets.counts[0]])
        _frames(first, boxes, [f"{index}" for index in range(len(boxes))], [COLOURS[5]] * len(boxes), letter)
        first.set_title("objects")
        for axes, stage in zip(others, stages, strict=False):
            show_picture(axes, picture)
            own = sorted((positive for positive in positives if positive.stage == stage), key=_is_match)  # on top
            corners = corners_in(picture, found.outputs.boxes[stage, 0, [positive.query for positive in own]])
            texts = [f"{positive.object} {positive.overlap:.2f}".replace("0.", ".") for positive in own]
            drawn += _frames(axes, corners, texts, [ORIGINS[positive.origin] for positive in own], letter)
            axes.set_title(f"{found.title(stage)}: {len(own)}")
        _legend(first.figure, positives, targets, class_names)
    return drawn


def write_assignment(
    batch: ImageBatch,
    found: EveryStage,
    targets: PaddedTargets,
    assignment: Assignment,
    stem: Path,
    *,
    stages: Sequence[int],
    class_names: Sequence[str],
) -> dict[str, int]:
    """Draw the class targets of the first image of a batch and write them as JSON.

    Args:
        batch: the images.
        found: the predictions.
        targets: the objects as the query group sees them.
        assignment: after the label rules.
        stem: of the files to write.
        stages: indices of the stages that are drawn.
        class_names: by class index.

    Returns:
        How many class targets are drawn, by origin.
    """
    everything = positives_of(found.outputs, targets, assignment, image=0)
    shown = [positive for positive in everything if positive.stage in stages]
    picture = picture_of(batch, 0)
    draw_assignment(picture, found, shown, targets, stem, stages=stages, class_names=class_names)
    record = {
        "image_id": batch.image_ids[0],
        "objects": [class_name(label, class_names) for label in targets.labels[0, : targets.counts[0]].tolist()],
        "positives": [{**asdict(positive), "stage": found.numbers[positive.stage]} for positive in shown],
    }
    write_numbers(stem.with_suffix(".json"), record)
    return dict(Counter(positive.origin for positive in shown))


def _frames(axes: Any, boxes: Sequence[Rectangle], texts: Sequence[str], colours: Sequence[str], letter: float) -> int:
    """Draw boxes with their tags, the last one on top, and return how many. letter: height of a letter in pixels."""
    size = (round(axes.get_xlim()[1]), round(axes.get_ylim()[0]))
    for (x0, y0, x1, y1), colour in zip(boxes, colours, strict=True):
        style: Any = DASHES if colour in (ORIGINS[OTHER_STAGE], ORIGINS[COPY]) else "solid"
        for edge, width, line in (("white", 2.2, "solid"), (colour, 1.2, style)):
            axes.add_patch(
                Patch((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=edge, linewidth=width, linestyle=line)
            )
    taken: list[Rectangle] = []
    for box, text, colour in reversed(list(zip(boxes, texts, colours, strict=True))):  # the upper ones choose first
        taken.append(place_tag((letter * (0.6 * len(text) + 0.3), 1.15 * letter), box, size, taken))
        x0, y0, x1, y1 = taken[-1]
        axes.add_patch(Patch((x0, y0), x1 - x0, y1 - y0, facecolor=colour, edgecolor="white", linewidth=0.5, zorder=3))
        centre = ((x0 + x1) / 2, (y0 + y1) / 2)
        axes.text(*centre, text, color="white", ha="center", va="center_baseline", zorder=4, clip_on=True)
    return len(boxes)


def _is_match(positive: Positive) -> bool:
    return positive.origin == MATCH


def _legend(figure: Any, positives: Sequence[Positive], targets: PaddedTargets, class_names: Sequence[str]) -> None:
    used = [origin for origin in ORIGINS if any(positive.origin == origin for positive in positives)]
    lines = [
        Line2D([], [], color=ORIGINS[origin], linestyle="solid" if origin == MATCH else DASHES, label=origin)
        for origin in used
    ]
    figure.legend(handles=lines, loc="outside lower center", ncols=max(1, len(used)))
    objects = targets.labels[0, : targets.counts[0]].tolist()
    shown = [chart_text(class_name(label, class_names), otherwise=str(label)) for label in objects]
    names = ", ".join(f"{index} {name}" for index, name in enumerate(shown))
    figure.suptitle(names if len(names) < 110 else names[:107] + "...", fontsize=8, wrap=True)
