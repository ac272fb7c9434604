"""Matches the classes of a data set to those of a training, by their names."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from crossstage.data.coco_json import CocoContents
from crossstage.errors import InputError, near_names

SHOWN = 6  # names in a message


def with_classes(contents: CocoContents, class_names: Sequence[str] | None) -> CocoContents:
    """Give the contents of a file the class indices of a training.

    The file may list the classes in another order, may lack some, and may have further ones without objects;
    `differences` says so.

    Args:
        contents: the contents of a file.
        class_names: the classes of the training, by class index; None keeps the order of the file.

    Returns:
        The contents with `labels`, `class_names` and `category_ids` by the class indices of the training.

    Raises:
        InputError: if the file has objects of a class that the training lacks, or if names do not decide.
    """
    if class_names is None or list(class_names) == contents.class_names:
        return contents
    wanted, theirs, file = list(class_names), in_spelling_of(class_names, contents.class_names), contents.json_file
    for names, of in ((wanted, "training"), (theirs, file)):
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(
                f"{file}: its classes ({some(theirs)}) cannot be matched by name to those of training "
                f"({some(wanted)}): {of} has {some(repeated)} more than once; expected different names"
            )
    index = {name: position for position, name in enumerate(wanted)}
    counts = np.bincount(contents.labels, minlength=len(theirs)).tolist()
    unknown = [name for name in theirs if name not in index]
    if strange := [f"{name!r} (near: {near_names(name, wanted)})" for name in unknown if counts[theirs.index(name)]]:
        number = sum(counts[theirs.index(name)] for name in unknown)
        raise InputError(
            f"{file}: has {number} objects of classes that training does not have: {some(strange)}; training has "
            f"{some(wanted)}; expected the same names: rename these categories, or remove them with their objects"
        )
    if not set(theirs) & set(wanted):
        raise InputError(f"{file}: has none of the classes of training ({some(wanted)}); it lists {some(theirs)}")
    new_index = np.array([index.get(name, -1) for name in theirs])
    ids = dict(zip(theirs, contents.category_ids, strict=True))
    return replace(
        contents,
        labels=new_index[contents.labels],
        class_names=wanted,
        category_ids=[ids.get(name) for name in wanted],
    )


def differences(contents: CocoContents, class_names: Sequence[str] | None) -> list[str]:
    """How the classes of a file differ from those of the training, a line each; arguments as for `with_classes`."""
    wanted = list(class_names or contents.class_names)
    theirs = in_spelling_of(wanted, contents.class_names)
    if theirs == wanted:
        return []
    shared, unknown = [name for name in theirs if name in wanted], [name for name in theirs if name not in wanted]
    said = []
    if shared != [name for name in wanted if name in shared]:
        said.append("numbers the classes in another order than training; they are matched by name")
    if lacking := [name for name in wanted if name not in shared]:
        said.append(f"lists {len(shared)} of {len(wanted)} classes, matched by name; without {some(lacking)}")
    if unknown:
        said.append(f"{len(unknown)} categories without objects are not among the classes: {some(unknown)}")
    return said


def in_spelling_of(wanted: Sequence[str], names: Sequence[str]) -> list[str]:
    """Names as `wanted` writes them where they differ only in the form of Unicode.

    An accented letter is one character or, as macOS writes it, a letter and an accent; both look the same.

    Args:
        wanted: the names of the training.
        names: the names of a file.

    Returns:
        As many names as `names`.
    """
    spelling = {unicodedata.normalize("NFC", name): name for name in wanted}
    known = set(wanted)
    return [name if name in known else spelling.get(unicodedata.normalize("NFC", name), name) for name in names]


def some(names: Sequence[str], shown: int = SHOWN) -> str:
    """The first few names, and the number if there are more."""
    return ", ".join(names[:shown]) + (f", ... ({len(names)})" if len(names) > shown else "")
