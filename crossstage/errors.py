"""Errors that the user can correct: a wrong file, key or value, or training that diverges."""

import difflib
from collections.abc import Sequence
from typing import Any


class InputError(Exception):
    """A mistake in the user's input.

    The message is one line that names the file, key or value, what was expected, and what to do. The commands print
    only this line, without a traceback, and exit with status 2. Any other exception keeps its traceback. Subclasses
    also derive from the built-in exception that a caller would expect (`KeyError`, `ImportError`, `ValueError`).
    """

    known_to_first = False  # whether the first process of a run raises it too, and can print it

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class NonFiniteError(FloatingPointError, ValueError):
    """A NaN or an infinity with which training cannot continue; the message says where it is."""

    known_to_first = False  # as above
    evidence: tuple[Any, ...] = ()  # records of the batches in which it was found (`engine.metrics.StepRecord`)


def near_names(name: str, names: Sequence[str]) -> str:
    """The names that are spelled nearly like `name`, for a message; "none" if there are none."""
    lower = {known.lower(): known for known in names}
    return ", ".join(lower[near] for near in difflib.get_close_matches(name.lower(), lower, cutoff=0.5)) or "none"
