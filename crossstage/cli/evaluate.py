"""`crossstage evaluate`: `crossstage train --eval-only` with the checkpoint as an argument; `--help` has examples."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from crossstage.cli.command_line import add_config_file, exit_status, new_parser
from crossstage.cli.train import OVERRIDES, add_processes, check_flags

EXAMPLES = """examples:
  %(prog)s --config-file dino_toy --weights output/model_final.pth dataloader.root=datasets/toy_easy
  %(prog)s --config-file output/config.yaml --weights output/model_best.pth --report
If the config has train.model_ema.enabled=True, the averaged weights of the checkpoint are measured.
results.json and the predictions are written into train.output_dir, or, if a training has written there, into its folder
eval_<name of the weights>. --report adds the folder report/ there: index.html and report.json.
"""


def main(arguments: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Evaluate a checkpoint; returns the exit status: 0, or 2 for a mistake in the input."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    others = {flag: key for flag, key in OVERRIDES.items() if flag != "--weights"}
    if status := exit_status(lambda: check_flags(given, others)):
        return status
    args = argument_parser(prog).parse_intermixed_args(given)
    args.command = shlex.join([*(prog or Path(sys.argv[0]).name).split(), *given])
    quoted = args.weights.replace("\\", "\\\\").replace("'", "\\'")
    args.opts = [*args.opts, f"train.init_checkpoint='{quoted}'"]

    from crossstage.engine.run import run_to_exit_status

    return run_to_exit_status(args)


def argument_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command line."""
    parser = new_parser("Measure a checkpoint on the config's test set.", EXAMPLES, prog)
    parser.set_defaults(eval_only=True, resume=False)
    add_config_file(parser)
    parser.add_argument("--weights", required=True, metavar="W", help="a checkpoint: .pth, .safetensors, .pkl")
    says = "also write report/: AP per class, kinds of mistakes and their cost, worst pictures"
    parser.add_argument("--report", action="store_true", help=says)
    add_processes(parser)
    return parser
