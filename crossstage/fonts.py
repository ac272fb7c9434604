"""Finds a font with the letters of a text: Pillow's own, DejaVu Sans (which comes with matplotlib), or the system's.

Pillow draws an empty rectangle for a letter that a font lacks, so that all names in such a script would look the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
NO_LETTER = "\U0010ffff"  # a code that no font has


@lru_cache(maxsize=512)
def font_for(text: str, size: int) -> Font | None:
    """A font with all letters of a text, or None.

    Args:
        text: the text.
        size: size of the letters in pixels.

    Returns:
        The first of Pillow's font, DejaVu Sans and the system's fonts that has them.
    """
    letters = frozenset(text) - set(" \t\n")
    own = default_font(size)
    if has_letters(own, letters):
        return own
    path = _path_with(letters)
    return None if path is None else ImageFont.truetype(path, size)


@lru_cache(maxsize=512)
def chart_text(text: str, *, otherwise: str) -> str:
    """A text for a figure of matplotlib, whose own font is DejaVu Sans.

    Args:
        text: the text.
        otherwise: what is returned if the font lacks a letter of it.

    Returns:
        The text; matplotlib would read "$" as the beginning of a formula, and leave out of a legend what begins
        with "_".
    """
    if not has_letters(ImageFont.truetype(next(_font_files()), 16), frozenset(text) - set(" \t\n")):
        return otherwise
    plain = text.replace("$", r"\$")
    return f" {plain}" if plain.startswith("_") else plain


@lru_cache(maxsize=64)
def default_font(size: int) -> Font:
    """The font that comes with Pillow."""
    return ImageFont.load_default(size)


def has_letters(font: Font, letters: frozenset[str]) -> bool:
    """Whether a font has all these letters: none looks like the sign for a missing letter."""
    missing = bytes(font.getmask(NO_LETTER)), font.getbbox(NO_LETTER)
    return all((bytes(font.getmask(letter)), font.getbbox(letter)) != missing for letter in letters)


@lru_cache(maxsize=64)
def _path_with(letters: frozenset[str]) -> str | None:
    """The file of a font with these letters."""
    for path in _font_files():
        try:
            if has_letters(ImageFont.truetype(path, 16), letters):
                return path
        except OSError:  # a damaged file, or a format that FreeType cannot scale
            continue
    return None


def _font_files() -> Iterator[str]:
    """DejaVu Sans, then all fonts of the system, in the order of their paths."""
    from matplotlib import font_manager, get_data_path  # only where it is needed: the import takes a second

    yield str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")
    yield from sorted(font_manager.findSystemFonts())
