"""Writes files completely or not at all: a reader sees the old or the new content, never a part of it."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

TEMPORARY = ".*.tmp"  # the pattern of the hidden files that are written first
DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Inside, write to the temporary file that this yields; afterwards it replaces `path`.

    The temporary file is hidden and in the folder of `path`. It is flushed to the disk before it replaces `path`, and
    removed after an error.

    Args:
        path: the file to create or to replace; its folder must exist.

    Yields:
        The temporary file.

    Raises:
        OSError: if writing fails; its `filename` is `path`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None:  # it has only a text
            raise
        # The message must name `path`, not the hidden file. OSError chooses the subclass by the number.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):  # removing even a missing file fails where the file system is read-only
            temporary.unlink()


def write_bytes(path: Path, content: bytes) -> None:
    """Create or replace `path`. If this fails, nothing is changed and OSError names `path`."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Create or replace `path` in UTF-8. If this fails, nothing is changed and OSError names `path`."""
    write_bytes(path, text.encode())


def unwritable(path: Path | str, error: OSError) -> str:
    """Say that a file of a run cannot be written, why, and what to do."""
    remedy = "make space" if error.errno in DISK_FULL else "make it writable"
    return f"{path}: cannot be written ({error.strerror or error}); {remedy}, then continue with --resume"


def digest(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    found = hashlib.sha256()
    with file.open("rb") as stream:
        while piece := stream.read(1 << 20):
            found.update(piece)
    return found.hexdigest()


def strict_json(content: Any, **options: Any) -> str:
    """JSON that every reader accepts: a number that is not finite, which JSON does not have, is written as null.

    Args:
        content: mappings, lists, texts and numbers.
        options: further keywords for `json.dumps`.

    Returns:
        The text.
    """
    return json.dumps(_finite(content), allow_nan=False, **options)


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def remove_leftovers(folder: Path) -> None:
    """Remove the hidden files in `folder` that remain if a process is killed while it writes."""
    for leftover in folder.glob(TEMPORARY):
        leftover.unlink(missing_ok=True)
