"""`crossstage train`: detectron2's command line for training and evaluation; `--help` has examples."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from crossstage.cli.command_line import add_config_file, exit_status, new_parser
from crossstage.errors import InputError

EXAMPLES = """examples:
  train on one GPU, or on the CPU if there is no GPU:
    %(prog)s --config-file dino_toy dataloader.root=datasets/toy_easy
  12 epochs, evaluated after each, and stopped if three evaluations bring nothing better:
    %(prog)s --config-file F train.max_epochs=12 train.eval_epochs=1 train.early_stopping.patience=3
  8 GPUs, another batch size (over all GPUs) and length:
    %(prog)s --config-file F --num-gpus 8 dataloader.train.total_batch_size=32 train.max_iter=45000
  continue after an interruption:
    %(prog)s --config-file F --resume
  evaluate a checkpoint:
    %(prog)s --config-file F --eval-only train.init_checkpoint=output/model_final.pth
  two machines; run this on each, with its own rank:
    %(prog)s --config-file F --num-gpus 8 --num-machines 2 --machine-rank 0 --dist-url tcp://10.0.0.1:29500
torchrun and srun determine the number of processes; --num-gpus is not needed there.
"""

# Flags of other training scripts, and the key of the config that each of them means here.
OVERRIDES = {
    "--lr": "optimizer.lr",
    "--learning-rate": "optimizer.lr",
    "--weight-decay": "optimizer.weight_decay",
    "--epochs": "train.max_epochs",
    "--iterations": "train.max_iter",
    "--max-iter": "train.max_iter",
    "--batch-size": "dataloader.train.total_batch_size",
    "--workers": "dataloader.train.num_workers",
    "--num-workers": "dataloader.train.num_workers",
    "--data-root": "dataloader.root",
    "--num-classes": "model.num_classes",
    "--output": "train.output_dir",
    "--output-dir": "train.output_dir",
    "--seed": "train.seed",
    "--device": "train.device",
    "--amp": "train.amp.enabled",
    "--ema": "train.model_ema.enabled",
    "--weights": "train.init_checkpoint",
}
SWITCHES = ("--amp", "--ema")


def main(arguments: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Train or evaluate.

    Args:
        arguments: the command line without the program's name; None takes it from `sys.argv`.
        prog: the program's name in the help.

    Returns:
        The exit status: 0, or 2 for a mistake in the input, or 128 + signal number if a signal stopped the run.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if status := exit_status(lambda: check_flags(given, OVERRIDES)):
        return status
    args = argument_parser(prog).parse_intermixed_args(given)
    args.command = shlex.join([*(prog or Path(sys.argv[0]).name).split(), *given])

    from crossstage.engine.run import run_to_exit_status

    return run_to_exit_status(args)


def argument_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """detectron2's command line."""
    parser = new_parser("Train or evaluate a detector.", EXAMPLES, prog)
    add_config_file(parser)
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint in train.output_dir")
    parser.add_argument("--eval-only", action="store_true", help="evaluate train.init_checkpoint")
    add_processes(parser)
    return parser


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for the number of processes and the address of their first machine, and the overrides."""
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help="processes per machine, also on the CPU")
    parser.add_argument("--num-machines", type=int, default=1, metavar="M")
    parser.add_argument("--machine-rank", type=int, default=0, metavar="R", help="this machine's number, from 0")
    parser.add_argument("--dist-url", default="auto", metavar="U", help="tcp://HOST:PORT of machine 0")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="changes to the config, e.g. train.max_iter=1000")


def check_flags(arguments: Sequence[str], overrides: dict[str, str]) -> None:
    """Raise InputError for a flag of other scripts whose value is in the config here.

    Args:
        arguments: the command line.
        overrides: the key of the config for each such flag.

    Raises:
        InputError: names the override to write instead of the flag.
    """
    for position, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag == "--gpus":
            raise InputError("--gpus: no such flag; write --num-gpus N")
        if flag not in overrides:
            continue
        following = arguments[position + 1 : position + 2]
        if flag in SWITCHES:
            value = "True"
        elif not equals:
            value = following[0] if following and not following[0].startswith("--") else "VALUE"
        raise InputError(f"{flag}: no such flag; the config holds this value, write {overrides[flag]}={value}")
