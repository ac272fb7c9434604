"""`crossstage export`: write a detector as ONNX or torch's own format, and check the file; `--help` has examples."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from crossstage.cli.command_line import add_config_file, exit_status, new_parser, without_overrides

EXAMPLES = """examples:
  %(prog)s --config-file dino_toy --weights output/model_final.pth
  %(prog)s --config-file output/config.yaml --weights output/model_best.pth --size 640 640 --batch 1 --output dino.onnx
  %(prog)s --config-file dino_toy --weights output/model_final.pth --format torch-export --input photos/

The file takes uint8 pixels [batch, 3, height, width] (RGB, resized by the rule in its metadata) and gives boxes
(absolute x0, y0, x1, y1 of its input), scores and labels. All images of a batch have one size: there are no padding
masks. After writing, the file is loaded and run next to the model, on generated pictures or on --input, in two sizes
and two batch sizes where these are dynamic. Differences and times are printed (medians, in turn, one thread). If
scores differ by more than 1e-4 (--fp16: 0.02) or boxes by more than 0.05 pixels (--fp16: 4), the file is removed and
the status is 2; unless both are similarly far from the model in float64, whose own roundings then explain it.
"""


def main(arguments: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Run the command; returns the exit status: 0, or 2 for a mistake in the input or a file that is not right."""
    args = parse(arguments, prog)

    from crossstage.cli.exporting import export

    return exit_status(lambda: export(args))


def parse(arguments: Sequence[str] | None, prog: str | None = None) -> argparse.Namespace:
    """Read the command line. A key=value is an override, also after a flag with several values."""
    parser = new_parser("Write a detector as an ONNX or torch.export file, and check the file.", EXAMPLES, prog)
    add_config_file(parser)
    parser.add_argument("--weights", required=True, metavar="W", help="a checkpoint: .pth, .safetensors, .pkl")
    parser.add_argument("--format", default="onnx", choices=("onnx", "torch-export"), help="default: onnx")
    says = "height and width of the input in pixels, or dynamic (default)"
    parser.add_argument("--size", nargs="+", default=["dynamic"], metavar="S", help=says)
    parser.add_argument("--batch", default="dynamic", metavar="B", help="images per call, or dynamic (default)")
    says = "convolutions and matrix products in float16, geometry in float32; for GPUs"
    parser.add_argument("--fp16", action="store_true", help=says)
    says = "the file (default: that of the weights, ending in .onnx or .pt2)"
    parser.add_argument("--output", metavar="F", help=says)
    parser.add_argument("--input", nargs="+", metavar="I", help="pictures to check with: files, folders, or globs")
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="timed runs of each side (default: 15)")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="changes to the config")
    given, overrides = without_overrides(sys.argv[1:] if arguments is None else arguments)
    args = parser.parse_intermixed_args(given)
    args.opts = [*args.opts, *overrides]
    return args
