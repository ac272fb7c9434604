"""`crossstage data`: check a data set before training, convert or divide one; `--help` has examples."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from crossstage.cli.command_line import exit_status, new_parser

EXAMPLES = """examples:
  everything that is wrong with a data set, counts per class and size, and pictures with their boxes:
    %(prog)s check datasets/cells
    %(prog)s check train.json val.json --output pictures
  YOLO (data.yaml) or Pascal VOC (Annotations/*.xml) to COCO's JSON; needs pip install 'crossstage[convert]':
    %(prog)s convert datasets/cells
  divide one annotation file into a training and a validation set:
    %(prog)s split datasets/cells/annotations.json --val 0.2
"""


def main(arguments: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Run the command; returns the exit status: 0, or 2 if the data cannot be used or an argument is wrong."""
    args = parse(arguments, prog)
    if args.action == "check":
        from crossstage.cli.data_check import check

        return exit_status(lambda: check(args))

    if args.action == "convert":
        from crossstage.cli.data_convert import convert

        return exit_status(lambda: convert(args))

    from crossstage.cli.data_split import split

    return exit_status(lambda: split(args))


def parse(arguments: Sequence[str] | None, prog: str | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = new_parser("Check a data set, convert it to COCO's format, or divide it.", EXAMPLES, prog)
    actions = parser.add_subparsers(dest="action", required=True, metavar="check|convert|split")
    check = actions.add_parser("check", help="all problems, counts, and pictures with their boxes")
    check.add_argument("data", nargs="+", metavar="D", help="a folder, or train.json val.json [test.json]")
    check.add_argument("--output", default="data_check", metavar="DIR", help="for the pictures (default: data_check)")
    check.add_argument("--pictures", type=int, default=12, metavar="N", help="pictures per sheet (default: 12)")
    convert = actions.add_parser("convert", help="YOLO or Pascal VOC to COCO's JSON")
    convert.add_argument("folder", metavar="FOLDER", help="gets a folder annotations/; the images stay where they are")
    split = actions.add_parser("split", help="divide one annotation file into two")
    split.add_argument("json_file", metavar="JSON", help="the annotations; the images stay where they are")
    split.add_argument("--val", type=float, default=0.2, metavar="S", help="share of validation images (default: 0.2)")
    split.add_argument("--seed", type=int, default=0, metavar="N", help="decides the images (default: 0)")
    split.add_argument("--output", metavar="DIR", help="for train.json and val.json (default: the folder of JSON)")
    return parser.parse_args(arguments)
