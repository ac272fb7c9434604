"""The command `crossstage`: one module per sub-command. The scripts in `tools/` call the same modules.

The module of a sub-command defines only the command line. It imports the modules that do the work after it has parsed
the arguments, so that `--help` does not need to import torch.

- `command_line`: shared by the commands: arguments, exit status
- `train`: train a detector; `crossstage.engine` does the work
- `evaluate`: measure a checkpoint
- `predict`: the command line of `prediction`
- `prediction`: draw what a detector finds in images
- `video_prediction`: the same in a video file or a camera
- `records`: the file predictions.json
- `export`: the command line of `exporting`
- `exporting`: write a detector as ONNX or torch's own format, and compare the file with it
- `thresholds`: the least score of a detection, for all classes or by class
- `picture_files`: the images that a command is given, and the pictures that it writes
- `inspect`: the command line of `inspection`
- `inspection`: opens a detector and its data for `crossstage.inspection`
- `image_choice`: the images that `inspection` looks at
- `convert`: the command line of `conversion`
- `conversion`: rename or cut a checkpoint's parameters
- `push`: upload a model to the Hugging Face hub; `crossstage.inference` does the work
- `pull`: fetch one
- `data`: the command line of `data_check`, `data_convert` and `data_split`
- `data_check`: find everything that is wrong with a data set
- `data_convert`: YOLO and Pascal VOC to COCO's JSON
- `data_split`: divide an annotation file into a training and a validation set
- `reproduce`: the rows of a paper's table; `crossstage.reproduction` does the work
- `configs`: list, show and copy our configs
- `env`: versions and devices, for a bug report
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import crossstage

COMMANDS = {
    "train": "train a detector from its config, or continue after an interruption",
    "evaluate": "measure a checkpoint on the config's test set",
    "predict": "draw what a detector finds in images",
    "export": "write a detector as an ONNX or torch.export file, and check the file",
    "inspect": "show what a trained detector does: steps, queries, assignments, sampling points, features",
    "convert": "rename a checkpoint's parameters for another library, or cut it to fewer classes",
    "push": "upload a trained model to the Hugging Face hub, with a model card",
    "pull": "fetch a model from the Hugging Face hub",
    "data": "check a data set before training, convert it from YOLO or VOC, or divide it",
    "reproduce": "run the rows of a paper's table and report them next to its figures",
    "configs": "list our configs, show one with its values, copy one to change it",
    "env": "print the versions and devices that a bug report needs",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a sub-command.

    Args:
        arguments: the command line without the program's name; None takes it from `sys.argv`.

    Returns:
        The exit status: 0, or 2 for a mistake in the input. The help of `reproduce` and `train` lists further ones.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    name = given[0] if given else "--help"
    if name in ("-h", "--help"):
        print(usage())
        return 0
    if name == "--version":
        print(f"crossstage {crossstage.__version__}")
        return 0
    if name not in COMMANDS:
        from crossstage.config.names import suggestion

        known = ", ".join(COMMANDS)
        print(
            f"error: crossstage {name}: no such command. There are: {known}.{suggestion(name, COMMANDS)}",
            file=sys.stderr,
        )
        return 2
    return importlib.import_module(f"crossstage.cli.{name}").main(given[1:], prog=f"crossstage {name}")


def usage() -> str:
    """The sub-commands with a line about each."""
    lines = "\n".join(f"  {name:<10} {says}" for name, says in COMMANDS.items())
    return (
        "usage: crossstage COMMAND [arguments]\n\nTrain and use query-based object detectors.\n\ncommands:\n"
        f"{lines}\n\n`crossstage COMMAND --help` shows the arguments of a command, with examples."
    )
