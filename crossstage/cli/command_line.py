"""Shared by the sub-commands: the look of their help, the argument for a config, and the end with a status."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from crossstage.errors import InputError


def new_parser(description: str, epilog: str, prog: str | None) -> argparse.ArgumentParser:
    """A parser whose help ends with `epilog`, with its line breaks."""
    formatter = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(prog=prog, description=description, epilog=epilog, formatter_class=formatter)


def add_config_file(parser: argparse.ArgumentParser) -> None:
    """Add --config-file, which every command that builds a model has."""
    says = "a config: its short name (crossstage configs list), a .py file, or a run's config.yaml"
    parser.add_argument("--config-file", required=True, metavar="F", help=says)


def exit_status(work: Callable[[], object]) -> int:
    """Call `work`; return 0, or 2 after an InputError, whose message is printed in one line.

    A reader that has seen enough, such as `head`, is no error.
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
