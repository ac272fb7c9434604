"""`crossstage pull`: fetch a model from the Hugging Face hub; `--help` has examples."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from crossstage.cli.command_line import exit_status, new_parser

EXAMPLES = """examples:
  a model that crossstage push uploaded, and what it finds in a picture:
    %(prog)s me/quickstart
    crossstage predict --config-file quickstart/config.yaml --weights quickstart/model.safetensors \\
        --input photo.jpg --output pictures

Only model.safetensors, config.yaml and README.md are fetched, and the config may name nothing but parts of this
library: no code is fetched or run. In Python: crossstage.load("quickstart"), or crossstage.load("hf://me/quickstart").
"""


def main(arguments: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Run the command; returns the exit status: 0, or 2 for a mistake in the input."""
    args = argument_parser(prog).parse_args(arguments)

    from crossstage.inference.hub import pull

    output = args.output or args.repo.rpartition("/")[2]
    return exit_status(lambda: print(f"written to {pull(args.repo, output, revision=args.revision)}"))


def argument_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command line."""
    parser = new_parser("Fetch a model from the Hugging Face hub.", EXAMPLES, prog)
    parser.add_argument("repo", metavar="USER/NAME", help="the repository")
    parser.add_argument("--output", metavar="DIR", help="a new folder (default: the name of the repository)")
    parser.add_argument("--revision", metavar="R", help="a branch, a tag or a commit (default: the newest state)")
    return parser
