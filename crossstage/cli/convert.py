"""`crossstage convert`: rename a checkpoint's parameters, or cut it to fewer classes; `--help` has examples."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from crossstage.cli.command_line import add_config_file, exit_status, new_parser

EXAMPLES = """examples:
  a released checkpoint of detrex, with our names:
    %(prog)s --from detrex --config-file dino_r50_4scale_12ep dino_r50.pth ours.safetensors
  our checkpoint for detrex:
    %(prog)s --to detrex --config-file F output/model_final.pth theirs.pth
  three of COCO's 80 classes, to train from with model.num_classes=3 train.init_checkpoint=three.pth:
    %(prog)s --from detrex --config-file F --classes "person,car,traffic light" dino_r50.pth three.pth

The weights must fit the model of the config: every name and shape is checked before OUT is written. IN is .pth,
.safetensors or .pkl; no code in it is run. --ema takes its averaged weights; optimizer states are left out. Training
needs no conversion: train.init_checkpoint also reads a file of the other library.
"""


def main(arguments: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Run the command; returns the exit status: 0, or 2 for a mistake in the input."""
    args = argument_parser(prog).parse_intermixed_args(arguments)

    from crossstage.cli.conversion import convert

    return exit_status(lambda: print("\n".join(convert(args))))


def argument_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command line."""
    description = "Convert a checkpoint between another library's parameter names and ours, or to fewer classes."
    parser = new_parser(description, EXAMPLES, prog)
    add = parser.add_argument
    add("--from", dest="source", metavar="LIBRARY", help="the library whose names IN has: detrex or mmdet")
    add("--to", dest="target", metavar="LIBRARY", help="the library whose names OUT gets: detrex or mmdet")
    add_config_file(parser)
    add("--classes", metavar="A,B", help="keep these classes, in this order; names as in IN, or else COCO's")
    add("--classes-from", metavar="JSON", help="keep the classes of a COCO annotation file, in its order")
    add("--ema", action="store_true", help="take the averaged weights of IN (ema_state)")
    add("--overwrite", action="store_true", help="replace OUT if it exists")
    add("input", metavar="IN", help="a checkpoint: .pth, .safetensors, .pkl; or its http(s) address")
    add("output", metavar="OUT", help=".pth or .safetensors: weights and class names")
    add("opts", nargs="*", metavar="key=value", help="changes to the config, such as model.num_classes=91")
    return parser
