"""`crossstage predict`: draw what a detector finds in images; `--help` has examples."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from crossstage.cli.command_line import add_config_file, exit_status, new_parser, without_overrides

EXAMPLES = """examples:
  %(prog)s --config-file dino_toy --weights output/model_final.pth \\
      --input 'datasets/toy_easy/val2017/*.jpg' --output output/pictures --limit 12
  %(prog)s --config-file output/config.yaml --weights output/model_final.pth --input photo.jpg folder/ --output out
  %(prog)s --config-file output/config.yaml --weights output/model_final.pth --input street.mp4 --output out

The output folder gets a picture of each image, predictions.json (all detections that reach the threshold, with boxes
as absolute x0, y0, x1, y1), and contact_sheet.png with the first 12 images. If the config's test dataset has
annotations of these images (dataloader.root=FOLDER), the sheet shows them to the left of the detections.

A video file, or camera:0, needs PyAV: pip install 'crossstage[video]'. The output folder gets an annotated video, with
the times of the frames but without sound, and predictions.json with the number and the time of each frame. Ctrl-C keeps
what is done, and is how a camera is ended.
"""


def main(arguments: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Run the command; returns the exit status: 0, or 2 for a mistake in the input, or 130 after Ctrl-C."""
    args = parse(arguments, prog)

    from crossstage.cli.prediction import predict

    try:
        return exit_status(lambda: predict(args))
    except KeyboardInterrupt:
        print("interrupted; what is listed above is complete", file=sys.stderr)
        return 128 + signal.SIGINT


def parse(arguments: Sequence[str] | None, prog: str | None = None) -> argparse.Namespace:
    """Read the command line. A key=value is an override, also after --input, unless it is a file."""
    parser = new_parser("Draw what a detector finds in images.", EXAMPLES, prog)
    add_config_file(parser)
    parser.add_argument("--weights", required=True, metavar="W", help="a checkpoint: .pth, .safetensors, .pkl")
    parser.add_argument(
        "--input", required=True, nargs="+", metavar="I", help="image files, folders, globs; or a video, or camera:0"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the pictures; created if missing")
    says = "least score, 0 to 1, and for single classes, e.g. 0.3,cat=0.5 (default: 0.3)"
    parser.add_argument("--threshold", default="0.3", metavar="T", help=says)
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images or frames")
    parser.add_argument("--batch-size", type=int, default=1, metavar="B", help="images, frames per batch (default: 1)")
    parser.add_argument("--device", metavar="D", help="cpu, cuda or cuda:1 (default: a GPU if there is one)")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="changes to the config")
    given, overrides = without_overrides(sys.argv[1:] if arguments is None else arguments)
    args = parser.parse_intermixed_args(given)
    args.opts = [*args.opts, *overrides]
    return args
