"""Where the numbers of a run come from: versions, commit, command, device, seed, size of the model."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import crossstage

PACKAGES = ("torch", "torchvision", "timm", "lightning-fabric", "numpy", "faster-coco-eval")


def version(package: str) -> str:
    """The version of an installed distribution."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def versions() -> dict[str, str]:
    """The versions of crossstage, Python and the packages that decide about the numbers, by name."""
    ours = {"crossstage": crossstage.__version__, "python": platform.python_version()}
    return {**ours, **{package: version(package) for package in PACKAGES}}


@cache
def commit_name() -> str:
    """The commit of the checkout, with "+changes" if files differ; without a checkout or git, the version."""
    checkout = Path(crossstage.__file__).parents[1]
    describe = ("git", "-C", str(checkout), "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=+changes")
    commit = ""
    if (checkout / "pyproject.toml").is_file() and shutil.which("git"):
        commit = subprocess.run(describe, capture_output=True, text=True).stdout.strip()
    return commit or f"unknown, version {crossstage.__version__}"


def device_name(device: str, gpus: int) -> str:
    """The device of a run with train.device=`device`, in words."""
    import torch

    if device == "cuda" and torch.cuda.is_available():
        return f"{gpus} x {torch.cuda.get_device_name(0)}"
    information = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*: (.+)", information.read_text()) if information.is_file() else []
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    return f"CPU: {(models or [platform.machine()])[0]}, {os.cpu_count()} cores, OMP_NUM_THREADS {threads}"


def head(*, command: str, device: str, processes: int, threads: str) -> str:
    """The first lines of a log: what runs, with which software, on which device.

    Args:
        command: the command line.
        device: "cuda" or "cpu".
        processes: number of processes on this machine.
        threads: the threads of torch, in words.

    Returns:
        Four lines.
    """
    named = ", ".join(f"{name} {number}" for name, number in versions().items())
    return (
        f"{named}\n  commit   {commit_name()}\n  command  {command}\n"
        f"  device   {device_name(device, processes)}, torch uses {threads}, processes {processes}"
    )


def model_line(model: Any, seed: int) -> str:
    """The line about the seed and the number of parameters."""
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    total, trained = sum(count for count, _ in counts), sum(count for count, learns in counts if learns)
    return f"seed {seed}; {total:,} parameters, {trained:,} of them trained"
