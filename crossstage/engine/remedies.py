"""Errors of the machine that the user can correct, as one line with the remedy: no memory, no space, read-only."""

from __future__ import annotations

import errno
from pathlib import Path

from crossstage.errors import InputError
from crossstage.files import DISK_FULL, unwritable

# torch has no exception of its own for an allocation on the CPU that fails, nor for one in a data worker.
NO_MEMORY = ("out of memory", "not enough memory", "allocate memory", "bad_alloc", "bad allocation")


def as_input_error(error: BaseException, output_dir: Path) -> InputError | None:
    """The error of a run in words that say what to do.

    Args:
        error: any error.
        output_dir: the output folder of the run.

    Returns:
        The same as an InputError, or None for an error of another kind.
    """
    if isinstance(error, OSError) and error.errno in (*DISK_FULL, errno.EROFS):
        return InputError(unwritable(error.filename or output_dir, error))
    if is_without_memory(error):
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        return InputError(
            f"out of memory ({reason}); use less: a smaller dataloader.train.total_batch_size (train.accumulate=2 with "
            "half of it gives the same gradients), smaller images (dataloader.image_size), "
            "model.encoder.layer.recompute=True, or fewer dataloader.train.num_workers; then continue with --resume"
        )
    return None


def is_without_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on the CPU, on a GPU or in a data worker."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in NO_MEMORY)
