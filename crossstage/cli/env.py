"""`crossstage env`: print the versions and devices that a bug report needs."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path

from crossstage.cli.command_line import new_parser
from crossstage.engine.provenance import version

PACKAGES = (
    *("torch", "torchvision", "triton", "timm", "lightning-fabric", "omegaconf", "hydra-core", "numpy", "scipy"),
    *("faster-coco-eval", "safetensors"),
)
VARIABLES = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")


def main(arguments: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Print the environment; returns the exit status, 0."""
    argument_parser(prog).parse_args(arguments)
    for name, value in environment():
        print(f"{name:<22} {value}")
    return 0


def argument_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command line."""
    return new_parser("Print the versions and devices that a bug report needs.", "", prog)


def environment() -> Iterator[tuple[str, str]]:
    """Yield the lines of the report as (name, value)."""
    import torch

    import crossstage

    yield "crossstage", f"{crossstage.__version__} in {Path(crossstage.__file__).parent}"
    yield "python", f"{platform.python_version()} on {platform.platform()}"
    for package in PACKAGES:
        yield package, version(package)
    yield "cuda of torch", torch.version.cuda or "none"
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            yield f"gpu {index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    else:
        yield "gpus", "none found"
    yield "cpus, torch threads", f"{os.cpu_count()}, {torch.get_num_threads()}"
    for name in VARIABLES:
        yield name, os.environ.get(name, "unset")
