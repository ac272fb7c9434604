"""Files written whole or not at all: a reader sees the old content or the new, never a part."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY = ".*.tmp"  # the pattern of the hidden files that are written first


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Inside, write to the path that this yields; afterwards its content is that of `path`.

    The hidden file lies in the folder of `path`. It is flushed to the disk before it takes the place of `path`, and
    removed if anything goes wrong.

    Args:
        path: the file to create or to replace; its folder exists.

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
        if error.errno is None:  # it has words alone
            raise
        # The reader of the message knows the name `path`, not the hidden one. OSError picks the class by the number.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Create or replace `path`. Raises OSError, naming `path`, with nothing changed."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Create or replace `path`, in UTF-8. Raises OSError, naming `path`, with nothing changed."""
    write_bytes(path, text.encode())


def remove_leftovers(folder: Path) -> None:
    """Remove the hidden files that processes killed while writing left in `folder`."""
    for leftover in folder.glob(TEMPORARY):
        leftover.unlink(missing_ok=True)
