"""Finds the images that a command is given, and names and writes the pictures that it draws."""

from __future__ import annotations

import glob
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from crossstage.errors import InputError

logger = logging.getLogger("crossstage.cli")

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
SHEET_FILE = "contact_sheet.png"


def find_images(inputs: Sequence[str], *, flag: str = "--input") -> list[Path]:
    """Find the image files.

    Args:
        inputs: files, folders and globs.
        flag: the argument that they were given with, for messages.

    Returns:
        Each file once; those of a folder or glob are sorted by name, without hidden ones. The log says how many other
        files of a folder are left out.

    Raises:
        InputError: if an input matches no image.
    """
    files: dict[str, Path] = {}
    for text in inputs:
        path = Path(os.path.expanduser(text))  # Path.expanduser raises an error for an unknown user
        if path.is_file():
            matches = [path]
        else:
            matches = _of_folder(path) if path.is_dir() else _images(map(Path, glob.glob(str(path), recursive=True)))
        if not matches:
            raise InputError(
                f"{flag} {text}: no images matched; expected an image file, a folder with images "
                f"({', '.join(IMAGE_SUFFIXES)}) or a quoted glob such as 'folder/*.jpg'"
            )
        for file in matches:
            files.setdefault(os.path.realpath(file), file)
    if not files:
        raise InputError(f"{flag}: no images given; expected image files, folders or globs")
    return list(files.values())


def _of_folder(folder: Path) -> list[Path]:
    """The image files of a folder; the log says which others there are, such as HEIC files or videos."""
    there = [file for file in folder.iterdir() if file.is_file() and not file.name.startswith(".")]
    images = _images(there)
    others = Counter(file.suffix.lower() or "no suffix" for file in set(there) - set(images))
    if images and others:
        kinds = ", ".join(f"{number} x {suffix}" for suffix, number in others.most_common(6))
        logger.warning("%s: files that are not read as images: %s", folder, kinds)
    return images


def _images(files: Iterable[Path]) -> list[Path]:
    """Those whose name says that they are images, sorted."""
    return sorted(file for file in files if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())


def picture_names(files: Sequence[Path]) -> dict[Path, str]:
    """The name of the picture of each image: the image's own name, with a number if several images share it."""
    taken = {SHEET_FILE}
    names = {}
    for file in files:
        suffix = ".jpg" if file.suffix.lower() in (".jpg", ".jpeg") else ".png"
        name, count = file.stem + suffix, 1
        while name.lower() in taken:  # some file systems do not distinguish upper and lower case
            count += 1
            name = f"{file.stem}_{count}{suffix}"
        taken.add(name.lower())
        names[file] = name
    return names


def prepare_output(output: Path, files: Sequence[Path], names: dict[Path, str]) -> None:
    """Create the folder. Raises InputError if it is not writable, or if a picture would replace an input image."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output).close()
    except OSError as error:
        raise InputError(f"--output {output}: not writable ({error.strerror}); choose another folder") from error
    folder = os.path.realpath(output)
    written = {os.path.join(folder, name) for name in (SHEET_FILE, *names.values())}
    if replaced := [file for file in files if os.path.realpath(file) in written]:
        raise InputError(f"--output {output}: holds the input {replaced[0]} itself; choose another folder")


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture in the format of its suffix. Raises InputError if it cannot be written."""
    options: dict[str, Any] = {"quality": 92} if path.suffix == ".jpg" else {}
    try:
        picture.save(path, **options)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error
