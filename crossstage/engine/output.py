"""The output folder: usable before anything costly begins, and never written over."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from crossstage.errors import InputError

logger = logging.getLogger("crossstage.engine")

# What a run writes; pictures and whatever else lies in the folder stay where they are.
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
    """Create `folder`. Raises InputError if that, or writing into it, is not possible."""
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
    """Move the files of an earlier run into previous_<time>/ inside `folder`; return that, or None without any."""
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
