"""The output folder: it is checked before anything costly begins, and no earlier run in it is overwritten."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from crossstage.errors import InputError

logger = logging.getLogger("crossstage.engine")

# The files that a run writes. Pictures and other files in the folder are not moved.
RUN_FILES = (
    "metrics.json",
    "log.txt",
    "config.yaml",
    "config.yaml.pkl",
    "last_checkpoint",
    "model_*.pth",
    "events.out.tfevents.*",
    "results.json",
    "curves.png",
    "coco_instances_results.json",
)


def prepare_folder(folder: Path) -> None:
    """Create `folder`. Raises InputError if this is not possible, or if it cannot be written to."""
    probe = folder / f".writable.{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"train.output_dir={folder}: not writable ({error.strerror}); choose another with train.output_dir=PATH"
        ) from error


def set_previous_run_aside(folder: Path) -> Path | None:
    """Move the files of an earlier run into a new folder previous_<time>/ inside `folder`.

    Returns the new folder, or None if there is no earlier run.
    """
    files = [path for pattern in RUN_FILES for path in sorted(folder.glob(pattern)) if path.is_file()]
    if not files:
        return None
    stamp = time.strftime("%Y%m%d_%H%M%S")
    aside = folder / f"previous_{stamp}"
    count = 1
    while aside.exists():
        count += 1
        aside = folder / f"previous_{stamp}_{count}"
    aside.mkdir()
    for path in files:
        path.rename(aside / path.name)
    return aside
