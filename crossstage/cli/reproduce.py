"""`crossstage reproduce`: run the rows of a paper's table and write a report; `--help` has examples."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from crossstage.cli.command_line import new_parser
from crossstage.errors import InputError

EXAMPLES = """examples:
  print the commands that it would run, each after a line with the paper's figure:
    %(prog)s --table 4 --dry-run
    %(prog)s --paper deqdet --table 4a --dry-run
  all rows at a small scale on generated images, on a laptop; the images are generated if they are missing:
    %(prog)s --table 4 --data toy --epochs-scale small
  three seeds of two rows (shell patterns are allowed), each seed of all rows before the next:
    %(prog)s --table 4 --rows dino_12ep 'dino_12ep_c*' --seeds 3
  the paper's recipe on COCO with 8 GPUs:
    %(prog)s --table 5 --data coco --root /path/to/coco --num-gpus 8
  one of the questions of docs/results.md, with its recipe and five seeds; the second one on pictures of your own:
    %(prog)s --question dino --resume --curves
    %(prog)s --question dino_pictures --root /path/to/bccd
  a question from random weights, or from a backbone of your own, in place of the one that it trains:
    %(prog)s --question dino train.init_checkpoint= --output output/questions/dino_random
    %(prog)s --question dino train.init_checkpoint=backbone.pth --output output/questions/dino_backbone
  a score that is the mean of the last three of twenty evaluations, of averaged weights:
    %(prog)s --table 4 --evaluations 20 --last 3 train.model_ema.enabled=true train.model_ema.decay=0.99
  take over the finished runs of another machine or folder, and run the rest:
    %(prog)s --question dino --merge /elsewhere/output/questions/dino/toy
  other values of the configs, in every run:
    %(prog)s --table 4 --epochs-scale 0.1 train.device=cpu dataloader.train.num_workers=0

A run has train.max_iter of the row's config x --epochs-scale iterations (small: 0.4); the schedule stretches with
them. On the generated images, a row with twice the epochs of its project's shortest row in the table trains twice as
long. A row may evaluate the weights of another row with other values; the other row is then run too.
A run writes into OUTPUT/DATA/ROW/seedK; OUTPUT/DATA/report.md and report.json are written after each run.
Most questions start from a backbone that is first trained to name shapes, once for several of them, in a few
minutes, and written into output/questions/backbones.
If you repeat the command, finished runs are skipped and interrupted ones are resumed, with or without --resume; a
folder that holds a run with other settings is an error. After Ctrl-C the training saves its state and stops; a second
Ctrl-C stops it at once.
If a row fails, the report says so and the other rows are run.
Exit status: 0, 1 if a row failed, 2 for a mistake in the input, 128 + signal number if a signal stopped it.
"""


def main(arguments: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Run the command; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    args = argument_parser(prog).parse_intermixed_args(given)

    from crossstage.reproduction.runner import run_table
    from crossstage.reproduction.runs import command_line

    again = command_line(["-m", "crossstage", "reproduce", *given])
    try:
        return run_table(args, again)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted; continue with: {again}", file=sys.stderr)
        return 130


def argument_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command line."""
    description = "Run the rows of a paper's table one after another and report them next to its figures."
    parser = new_parser(description, EXAMPLES, prog)
    add = parser.add_argument
    add("--paper", choices=("stageinteractor", "deqdet", "paq_detr"), help="default: stageinteractor")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--table", metavar="T", help="a table of the paper, such as 4; an unknown name lists all")
    what.add_argument("--question", metavar="Q", help="rows with a recipe and seeds; an unknown name lists all")
    add("--rows", nargs="+", default=[], metavar="NAME", help="only these rows (default: all)")
    add("--data", choices=("coco", "toy", "own"), help="generated images (default), COCO, or any folder of images")
    add("--epochs-scale", default="1", metavar="X", help="a factor of all iterations, or small (default: 1)")
    add("--seeds", type=int, metavar="N", help="runs per row: seeds 0 to N-1 (default: 1; 5 for a question)")
    add("--evaluations", type=int, metavar="N", help="per training, evenly spread (default: 1; 5 for a question)")
    add("--last", type=int, default=1, metavar="K", help="a score is the mean of the last K evaluations (default: 1)")
    add("--root", metavar="DIR", help="the dataset, in COCO's layout (default: datasets/toy_easy, datasets/coco)")
    add("--output", metavar="DIR", help="folder for runs and reports (default: output/PAPER/tableT)")
    add("--merge", nargs="+", default=[], metavar="DIR", help="first copy the finished runs of these OUTPUT/DATA here")
    add("--resume", action="store_true", help="accepted as in crossstage train; unfinished runs are always resumed")
    add("--curves", action="store_true", help="also draw the AP over the iterations, with intervals over seeds")
    add("--num-gpus", type=int, default=1, metavar="N", help="processes per run, also on the CPU")
    add("--dry-run", action="store_true", help="check everything and print the commands, run nothing")
    add("opts", nargs="*", metavar="key=value", help="changes to the config of every run")
    return parser
