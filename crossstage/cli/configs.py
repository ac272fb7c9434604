"""`crossstage configs`: list our configs, show the values of one, copy one to change it; `--help` has examples."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from crossstage.cli.command_line import exit_status, new_parser
from crossstage.errors import InputError

EXAMPLES = """examples:
  all names, each with one line about it; only those that contain "csla", or that fit a shell pattern:
    %(prog)s list
    %(prog)s list csla
    %(prog)s list 'dino_r50_*'
  every value of a config, after changes:
    %(prog)s show dino_toy train.max_iter=100
  a config of your own, which imports the original and changes the values that you write into it:
    %(prog)s copy dino_r50_4scale_12ep_csla my_dino.py
"""

COPY = '''"""A config of my own: {name} with what is changed below.

    crossstage train --config-file {file}
"""

from crossstage.projects.{project}.configs.{name} import dataloader, lr_multiplier, model, optimizer, train

# `crossstage configs show {name}` prints every value that can be changed here. For example:
# dataloader.root = "datasets/mine"  # a dataset in COCO's layout
# dataloader.train.total_batch_size = 8
# model.num_classes = 3
# optimizer.lr = 5e-5
# train.max_iter = 20000  # the schedule stretches with it
#
# A function changes a node as a whole, such as `from csla import with_csla` and `model = with_csla(model)`.

train.output_dir = "./output/{stem}"
'''


def main(arguments: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Run the command; returns the exit status: 0, or 2 for a mistake in the input."""
    args = argument_parser(prog).parse_args(arguments)
    return exit_status(lambda: print(args.work(args)))


def argument_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command line."""
    parser = new_parser("List our configs, show the values of one, copy one to change it.", EXAMPLES, prog)
    commands = parser.add_subparsers(required=True, metavar="{list,show,copy}")
    listing = commands.add_parser("list", help="the short names with a line about each")
    listing.add_argument("pattern", nargs="?", default="", metavar="PATTERN", help="a part of the name, or a pattern")
    listing.set_defaults(work=listed)
    showing = commands.add_parser("show", help="all values of a config, interpolations resolved")
    showing.add_argument("name", metavar="NAME", help="a short name, or a file")
    showing.add_argument("opts", nargs="*", metavar="key=value", help="changes to the config")
    showing.set_defaults(work=shown)
    copying = commands.add_parser("copy", help="write a file that imports a config and changes it")
    copying.add_argument("name", metavar="NAME", help="a short name")
    copying.add_argument(
        "destination", nargs="?", metavar="DEST", help="a .py file or a folder (default: ./my_NAME.py)"
    )
    copying.set_defaults(work=copied)
    return parser


def listed(args: argparse.Namespace) -> str:
    """The names that fit the pattern, each with the first line of its file's docstring."""
    from crossstage.config.find import experiments

    pattern = args.pattern if any(sign in args.pattern for sign in "*?[") else f"*{args.pattern}*"
    found = {name: file for name, file in experiments().items() if fnmatchcase(name, pattern)}
    if not found:
        raise InputError(
            f"{args.pattern}: fits no config; `crossstage configs list` without a pattern prints all names"
        )
    width = max(map(len, found))
    return "\n".join(f"{name:<{width}}  {first_line(file)}".rstrip() for name, file in found.items())


def first_line(file: Path) -> str:
    """The first line of a Python file's docstring, or nothing."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


def shown(args: argparse.Namespace) -> str:
    """A config as Python-like text, one value per line."""
    from crossstage.config import LazyConfig, find_config

    cfg = LazyConfig.apply_overrides(LazyConfig.load(find_config(args.name)), args.opts)
    return LazyConfig.to_py(cfg, prefix="").rstrip()


def copied(args: argparse.Namespace) -> str:
    """Write the file and return a line that says what to do next. Raises InputError if the file exists already."""
    from crossstage.config.find import experiments, find_config

    if args.name not in experiments():
        file = find_config(args.name)  # raises if there is no config of this name at all
        raise InputError(f"{args.name}: expected the short name of one of our configs; {file} is copied with cp")
    file = Path(args.destination or f"my_{args.name}.py").expanduser()
    file = file / f"my_{args.name}.py" if file.is_dir() else file
    if file.suffix != ".py":
        raise InputError(f"{file}: expected the name of a .py file, or a folder that exists")
    project = experiments()[args.name].parents[1].name
    text = COPY.format(name=args.name, project=project, file=file, stem=file.stem)
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError as error:
        raise InputError(f"{file}: exists already and is not overwritten; choose another name") from error
    except OSError as error:
        raise InputError(f"{file}: cannot be written ({error.strerror or error}); choose another place") from error
    return f"{file}: change what should differ, then run\n  crossstage train --config-file {file}"
