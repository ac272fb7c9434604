"""`crossstage push`: upload a trained model to the Hugging Face hub; `--help` has examples."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from crossstage.cli.command_line import exit_status, new_parser
from crossstage.errors import InputError

EXAMPLES = """examples:
  the best weights of a run, or else its final ones:
    %(prog)s output/quickstart me/quickstart --license apache-2.0
  write the same files into a folder and look at them first:
    %(prog)s output/quickstart me/quickstart --output published

The files are model.safetensors (weights and class names), config.yaml (parts of this library with plain values; no
code) and README.md (a model card with the scores of the run). `hf auth login` signs in.
"""


def main(arguments: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Run the command; returns the exit status: 0, or 2 for a mistake in the input."""
    args = argument_parser(prog).parse_args(arguments)
    return exit_status(lambda: print(published(args)))


def argument_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command line."""
    parser = new_parser("Upload a trained model to the Hugging Face hub.", EXAMPLES, prog)
    parser.add_argument("source", metavar="SOURCE", help="a run's folder, a file of weights in it, or a config")
    parser.add_argument("repo", metavar="USER/NAME", help="the repository; made if it does not exist")
    parser.add_argument("--weights", metavar="W", help="a checkpoint (default: the best of the folder, or the final)")
    parser.add_argument("--license", metavar="ID", help="such as apache-2.0 (default: left for you to add)")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--output", metavar="DIR", help="write the files there and upload nothing")
    return parser


def published(args: argparse.Namespace) -> str:
    """Upload, or write the folder; returns the line to print."""
    from crossstage.inference.hub import push
    from crossstage.inference.publication import FILES, write_publication

    options = {"weights": args.weights, "license": args.license}
    if args.output is None:
        return f"uploaded to {args.repo}: {push(args.source, args.repo, private=args.private, **options)}"
    folder = Path(args.output).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {folder}: not writable ({error.strerror}); choose another folder") from error
    write_publication(args.source, folder, repo=args.repo, **options)
    return f"written to {folder}: {', '.join(FILES)}"
