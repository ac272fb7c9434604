"""The folder failure/: what a run had before it when a loss or a gradient was not finite."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from crossstage.engine.metrics import StepRecord
from crossstage.errors import NonFiniteError
from crossstage.files import replacing, write_text
from crossstage.structures import ImageBatch
from crossstage.visualize import contact_sheet, draw_targets, with_caption

logger = logging.getLogger("crossstage.engine")


def write_failure(error: NonFiniteError, output_dir: Path, *, class_names: Sequence[str], rank: int) -> Path | None:
    """Write the batches of a failure: batch.pt (tensors), batch.jpg (images with their boxes), losses.json.

    A disk that is full is no reason to lose the error itself: it is only logged.

    Args:
        error: the failure, with its `evidence`; other processes have none.
        output_dir: the output folder of the run.
        class_names: by class index.
        rank: number of this process; all but the first use folders of their own.

    Returns:
        The folder, or None if there is nothing to write.
    """
    records: tuple[StepRecord, ...] = error.evidence
    if not records:
        return None
    folder = output_dir / "failure" / (f"process_{rank}" if rank else "")
    batches = [record.batch for record in records if record.batch is not None]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "losses.json", _losses_json(error, records))
        if batches:
            with replacing(folder / "batch.pt") as temporary:
                torch.save([_plain(batch) for batch in batches], temporary)
            with replacing(folder / "batch.jpg") as temporary:
                picture(batches, class_names).save(temporary, format="JPEG", quality=90)
    except OSError as problem:
        logger.warning(f"{folder}: cannot be written ({problem.strerror})")
        return None
    return folder


def picture(batches: Sequence[ImageBatch], class_names: Sequence[str]) -> Image.Image:
    """A sheet of the images as the model got them, without padding, with their boxes and image ids."""
    pictures = []
    for batch in batches:
        for index, (height, width) in enumerate(batch.sizes):
            pixels = batch.pixels[index, :, :height, :width].permute(1, 2, 0).to(torch.uint8)
            shown = Image.fromarray(pixels.contiguous().numpy())
            if batch.targets is not None:
                shown = draw_targets(shown, batch.targets[index], class_names)
            name = f"image {batch.image_ids[index]}" if batch.image_ids else f"number {index}"
            pictures.append(with_caption(shown, name))
    return contact_sheet(pictures)


def _losses_json(error: NonFiniteError, records: Sequence[StepRecord]) -> str:
    """Numbers that are not finite are texts, because JSON has none and null would not tell NaN from infinity."""
    batches = [
        {
            "image_ids": list(record.image_ids),
            "losses": {
                name: value if abs(value) < float("inf") else str(value) for name, value in record.losses().items()
            },
        }
        for record in records
    ]
    content = {"iteration": records[0].iteration, "message": str(error), "batches": batches}
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def _plain(batch: ImageBatch) -> dict[str, Any]:
    """A batch as a dict that a file of weights may hold."""
    targets = batch.targets or ()
    return {
        "pixels": batch.pixels,
        "mask": batch.mask,
        "sizes": list(batch.sizes),
        "image_ids": list(batch.image_ids),
        "labels": [target.labels for target in targets],
        "boxes": [target.boxes for target in targets],
    }
