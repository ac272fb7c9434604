"""Shared by the sub-commands: the format of the help, the argument for a config, and the exit status."""

from __future__ import annotations

import argparse
import glob
import os
import sys
from collections.abc import Callable, Sequence

from crossstage.errors import InputError


def new_parser(description: str, epilog: str, prog: str | None) -> argparse.ArgumentParser:
    """Make a parser.

    Args:
        description: the first line of the help.
        epilog: the end of the help, printed with its line breaks.
        prog: name of the program; None takes it from `sys.argv`.

    Returns:
        The parser.
    """
    formatter = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(prog=prog, description=description, epilog=epilog, formatter_class=formatter)


def add_config_file(parser: argparse.ArgumentParser) -> None:
    """Add --config-file, which every command that builds a model has."""
    says = "a config: its short name (crossstage configs list), a .py file, or a run's config.yaml"
    parser.add_argument("--config-file", required=True, metavar="F", help=says)


def without_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take the overrides out of a command line, so that they may follow a flag with several values.

    A key=value is an override, unless it is the name of a file or the first value of a flag.

    Returns:
        The other arguments, and the overrides.
    """
    others: list[str] = []
    overrides: list[str] = []
    for before, text in zip(["", *arguments], arguments, strict=False):
        is_value = text.startswith("-") or (before.startswith("--") and "=" not in before)
        is_override = "=" in text and not is_value and not os.path.exists(text) and not glob.glob(text)
        (overrides if is_override else others).append(text)
    return others, overrides


def exit_status(work: Callable[[], object]) -> int:
    """Call `work` and return 0; after an InputError, print its message in one line and return 2.

    If the reader of the output closes it early, such as `head`, that is no error.
    """
    try:
        work()
        sys.stdout.flush()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
    return 0
