"""Errors that are the user's to mend: a file, a key or a value, never our own fault."""


class InputError(Exception):
    """Something that the user gave is wrong.

    The message is one line that names the file, key or value, says what was expected and what to do. The tools print
    it alone, without a traceback, and exit with status 2; any other exception is ours and keeps its traceback.
    Subclasses also derive from the built-in that a caller would expect (`KeyError`, `ImportError`, `ValueError`).
    """

    known_to_first = False  # whether the first process of a run raises it, too, and so tells the user

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class NonFiniteError(FloatingPointError, ValueError):
    """A NaN or an infinity where training cannot go on; the message says where it was met."""

    known_to_first = False  # as above
