"""`crossstage inspect`: show what a trained detector does; `crossstage inspect TOOL --help` has examples."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from crossstage.cli.command_line import add_config_file, exit_status, new_parser, without_overrides

COMMON = """
All tools take --images (files, folders or globs; those of the config's test set bring their annotations) or --limit N
(the first N images of the test set). They write PNG and PDF fit for a paper, and JSON with the numbers drawn.
"""


@dataclass(frozen=True)
class Tool:
    """A tool: its line in the overview, and its examples."""

    says: str
    examples: str


TOOLS = {
    "refinement": Tool(
        "residuals and AP after every step of a decoder, and one image's boxes over the steps",
        """examples:
  a decoder that repeats one step, beyond the steps that it was trained with:
    %(prog)s --config-file deqdet_toy --weights W --steps 24 --output out dataloader.root=datasets/toy_easy
  with gradient norms of two runs, and another solver:
    %(prog)s --config-file F --weights W --output out --solver anderson --metrics run1/metrics.json run2/metrics.json
For other decoders the axis is the stage.
""",
    ),
    "queries": Tool(
        "which queries work: Gini of activations and matches, positives, changes between stages and checkpoints",
        """examples:
  one checkpoint:
    %(prog)s --config-file dino_toy --weights W --output out dataloader.root=datasets/toy_easy
  two checkpoints:
    %(prog)s --config-file dino_toy --weights W --compare dino_toy_csla W2 --output out dataloader.root=DIR
""",
    ),
    "assignment": Tool(
        "the boxes of the queries that own a label at each stage, on a picture",
        """examples:
    %(prog)s --config-file F --weights W --images datasets/toy_easy/val2017/000000000003.jpg --output out
  solid: own match; dashed: copy, or label from another stage. A tag has the number of the object and the IoU.
""",
    ),
    "points": Tool(
        "where queries sample the image, by stage and level, on a picture",
        """examples:
  the three queries with the highest scores, or chosen ones:
    %(prog)s --config-file F --weights W --images photo.jpg --output out
    %(prog)s --config-file F --weights W --images photo.jpg --output out --queries 4 17
""",
    ),
    "features": Tool(
        "t-SNE of matched queries by class, with a silhouette and a linear probe",
        """examples:
    %(prog)s --config-file dino_toy --weights W --compare dino_toy_csla W2 --output out dataloader.root=DIR
Needs scikit-learn: pip install 'crossstage[inspect]'.
""",
    ),
}


def main(arguments: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Run a tool; returns the exit status: 0, or 2 for a mistake in the input."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    prog = prog or "crossstage inspect"
    if not given or given[0] in ("-h", "--help"):
        print(usage(prog))
        return 0
    if given[0] not in TOOLS:
        from crossstage.config.names import suggestion

        hint = suggestion(given[0], list(TOOLS))
        print(f"error: {prog} {given[0]}: no such tool. There are: {', '.join(TOOLS)}.{hint}", file=sys.stderr)
        return 2
    args = parse(given[0], given[1:], prog=f"{prog} {given[0]}")

    from crossstage.cli.inspection import inspect

    return exit_status(lambda: inspect(args))


def usage(prog: str) -> str:
    """The tools with a line about each."""
    lines = "\n".join(f"  {name:<10} {tool.says}" for name, tool in TOOLS.items())
    return f"usage: {prog} TOOL [arguments]\n\nShow what a trained detector does.\n\ntools:\n{lines}\n{COMMON.rstrip()}"


def parse(tool: str, arguments: Sequence[str], *, prog: str) -> argparse.Namespace:
    """Read the command line of a tool."""
    says = TOOLS[tool].says
    parser = new_parser(f"{says[0].upper()}{says[1:]}.", TOOLS[tool].examples + COMMON, prog)
    parser.set_defaults(tool=tool)
    add_config_file(parser)
    add = parser.add_argument
    add("--weights", required=True, metavar="W", help="a checkpoint: .pth, .safetensors, .pkl")
    add("--output", required=True, metavar="DIR", help="folder for the files; created if missing")
    add("--images", nargs="+", default=[], metavar="I", help="image files, folders or globs (default: the test set)")
    one_image = tool in ("assignment", "points")
    add("--limit", type=int, default=4 if one_image else None, metavar="N", help="only the first N images")
    add("--device", metavar="D", help="cpu, cuda or cuda:1 (default: a GPU if there is one)")
    if tool in ("queries", "features"):
        add("--compare", nargs=2, action="append", default=[], metavar=("F2", "W2"), help="another checkpoint")
    if tool == "refinement":
        add("--steps", type=int, default=40, metavar="S", help="applications of a step that repeats (default: 40)")
        add("--solver", metavar="NAME", help="how a repeated step is solved, such as anderson (default: the config's)")
        add("--metrics", nargs="+", default=[], metavar="M", help="metrics.json of runs, for their gradient norms")
    if one_image:
        add("--stages", type=int, nargs="+", metavar="S", help="stages to draw, from 1 (default: at most six)")
    if tool == "points":
        add("--queries", type=int, nargs="+", default=[], metavar="Q", help="indices of queries (default: the best 3)")
    add("opts", nargs="*", metavar="key=value", help="changes to the config")
    given, overrides = without_overrides(arguments)
    args = parser.parse_intermixed_args(given)
    args.opts = [*args.opts, *overrides]
    return args
