"""Kills, fills, truncates and disturbs runs, and prints a table of what became of them.

python -m tests.faults.campaign                  # everything, several minutes on two idle cores
python -m tests.faults.campaign --kills 4 kill signals
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from crossstage.checkpoints.load import read_checkpoint
from crossstage.data.toy.generate import main as write_toy

ROOT = Path(__file__).resolve().parents[2]
CONFIG = Path(__file__).with_name("faults_config.py")
ENGINE = ROOT / "tests/crossstage/engine"  # the tiny detector
Row = tuple[str, str, str]  # what was done, at which moment, what became of it


class Campaign:
    """Starts runs in a temporary folder.

    Args:
        folder: the temporary folder.
        kills: how many runs are killed with -9.
        seed: of the moments.
    """

    def __init__(self, folder: Path, *, kills: int, seed: int) -> None:
        self.folder, self.kills, self.draw = folder, kills, random.Random(seed)
        counts = ["--train", "24", "--val", "8", "--size", "96", "--workers", "1"]
        write_toy(["--output", str(folder / "data"), *counts])
        self.whole = folder / "whole"
        process = self.start(self.whole)
        wait_for(lambda: (self.whole / "log.txt").exists(), process)
        started = time.monotonic()
        wait_for(lambda: (self.whole / "model_final.pth").exists(), process)
        self.seconds = time.monotonic() - started  # of the training alone
        done = self.finish(process)
        assert done == 0, self.errors(self.whole)

    def start(self, output: Path, *more: str, **variables: str) -> subprocess.Popen:
        """Start a run in the background; its messages go to <output>.err."""
        given = [f"dataloader.root={self.folder / 'data'}", f"train.output_dir={output}", "train.device=cpu", *more]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ENGINE}:{ROOT}", **variables}
        command = [sys.executable, "-m", "crossstage", "train", "--config-file", str(CONFIG), *given]
        with output.with_suffix(".err").open("w") as errors:
            return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=errors)

    def finish(self, process: subprocess.Popen, seconds: float = 300) -> int:
        """Wait for the end of a run; returns its status."""
        return process.wait(seconds)

    def errors(self, output: Path) -> str:
        """The last line that a run printed to stderr."""
        lines = output.with_suffix(".err").read_text().strip().splitlines()
        return lines[-1] if lines else ""

    def compared(self, output: Path) -> str:
        """Resume a run to its end and compare its final state with that of the undisturbed run."""
        if status := self.finish(self.start(output, "--resume")):
            return f"FAILED to resume: status {status}, {self.errors(output)}"
        states = [read_checkpoint(folder / "model_final.pth") for folder in (self.whole, output)]
        bests = [read_checkpoint(folder / "model_best.pth")["model"] for folder in (self.whole, output)]
        parts = ("model", "ema_state", "optimizer", "random", "sampler", "best")
        other = [part for part in parts if not same(states[0][part], states[1][part])]
        if not same(*bests):
            other.append("model_best.pth")
        scores = [json.loads((folder / "results.json").read_text())["bbox"] for folder in (self.whole, output)]
        if not same(*scores):  # "about" has the commit, which may change while the campaign runs
            other.append("results.json")
        return f"DIFFERENT: {', '.join(other)}" if other else "bit-equal after --resume"

    def moment(self, output: Path, kind: str, process: subprocess.Popen) -> str:
        """Wait for a moment of a kind; returns it in words."""
        if kind == "first second":
            seconds = self.draw.uniform(0, 1)
            time.sleep(seconds)
            return f"{seconds:.2f} s after the start"
        if kind == "training":
            wait_for(lambda: (output / "log.txt").exists(), process)
            seconds = self.draw.uniform(0, self.seconds)
            time.sleep(seconds)
            return f"{seconds:.2f} s after log.txt began"
        target = self.draw.randint(0, 3)
        pattern = "evaluating" if kind == "evaluation" else ".model_*.tmp"
        seen = 0
        while seen <= target:
            wait_for(lambda: any(output.glob(pattern)), process)
            seen += 1
            if seen <= target:
                wait_for(lambda: not any(output.glob(pattern)), process)
        return f"in {'evaluation' if kind == 'evaluation' else 'save'} number {target + 1} seen"


def same(one: object, other: object) -> bool:
    """Whether two nested states are equal, bit for bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def wait_for(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    """Until a condition holds or a run has ended."""
    while process.poll() is None and not condition():
        time.sleep(0.0005)


def kill(campaign: Campaign) -> Iterator[Row]:
    """kill -9 at random moments of four kinds."""
    kinds = ("training", "save", "evaluation", "first second")
    for number in range(campaign.kills):
        kind = kinds[number % len(kinds)]
        output = campaign.folder / f"kill{number}"
        process = campaign.start(output)
        moment = campaign.moment(output, kind, process)
        process.kill()
        campaign.finish(process)
        last = output / "last_checkpoint"
        saved = last.read_text() if last.exists() else "nothing saved"
        yield f"kill -9, {kind}", f"{moment} ({saved})", campaign.compared(output)


def signals(campaign: Campaign) -> Iterator[Row]:
    """Signals that save."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGHUP"):
        output = campaign.folder / name
        process = campaign.start(output)
        wait_for(lambda output=output: (output / "metrics.json").exists(), process)
        process.send_signal(getattr(signal, name))
        status = campaign.finish(process)
        ended = (output / "log.txt").read_text().strip().splitlines()[-1].split("] ")[-1]
        yield name, f"status {status}, log.txt ends: {ended}", campaign.compared(output)


def disk(campaign: Campaign) -> Iterator[Row]:
    """A small file system that is filled while the run saves; needs the right to mount one."""
    output = campaign.folder / "full"
    output.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(output)]).returncode:
        yield "disk full", "a tmpfs cannot be mounted here", "not tried"
        return
    try:
        process = campaign.start(output)
        wait_for(lambda: (output / "model_0000011.pth").exists(), process)
        filler = output / "filler"
        with filler.open("wb") as file:
            try:
                while True:
                    file.write(bytes(65536))
                    file.flush()
            except OSError:
                pass
        status = campaign.finish(process)
        lines = len(output.with_suffix(".err").read_text().strip().splitlines())
        told = f"status {status}, {lines} line(s): {campaign.errors(output)}"
        filler.unlink()
        yield "disk full", told.replace(str(campaign.folder), ""), campaign.compared(output)
    finally:
        subprocess.run(["umount", "-l", str(output)], check=False)


def readonly(campaign: Campaign) -> Iterator[Row]:
    """A folder that cannot be written, from the beginning or from a moment on; needs the right to mount."""
    for moment in ("before the start", "while it trains"):
        output = campaign.folder / f"readonly {moment}".replace(" ", "_")
        output.mkdir()
        cover = ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(output)]
        process = None
        if moment != "before the start":
            process = campaign.start(output)
            wait_for(lambda output=output: (output / "model_0000003.pth").exists(), process)
        if subprocess.run(cover).returncode:
            yield f"read-only {moment}", "a tmpfs cannot be mounted here", "not tried"
            return
        try:
            process = process or campaign.start(output)
            status, told = campaign.finish(process), campaign.errors(output).replace(str(campaign.folder), "")
        finally:
            subprocess.run(["umount", "-l", str(output)], check=False)
        yield f"read-only {moment}", f"status {status}: {told}", campaign.compared(output)


def memory(campaign: Campaign) -> Iterator[Row]:
    """A process that needs more and more memory, under a limit: alone, and as one of two."""
    whose = (("the only process", 1, 0), ("the first of two processes", 2, 0), ("the second of two processes", 2, 1))
    for name, count, rank in whose:
        output = campaign.folder / f"memory_{count}_{rank}"
        process = campaign.start(output, "--num-gpus", str(count), "train.max_iter=4000", FAULTS_MEMORY=str(rank))
        wait_for(lambda output=output: "out of memory" in output.with_suffix(".err").read_text(), process)
        started = time.monotonic()
        status = campaign.finish(process)
        seconds = time.monotonic() - started
        cause = [line for line in (output / "log.txt").read_text().splitlines() if "out of memory" in line]
        told = cause[0].split("] ", 1)[-1] if cause else "NO CAUSE in log.txt"
        yield f"out of memory: {name}", f"all ended {seconds:.0f} s later, status {status}", told


def truncated(campaign: Campaign) -> Iterator[Row]:
    """A checkpoint cut at 20 places: an exit status of 2 with one line that names the one before."""
    output = campaign.folder / "whole"
    pointer, final = output / "last_checkpoint", output / "model_final.pth"
    content = final.read_bytes()
    told = []
    from crossstage.checkpoints.save import Checkpointer
    from crossstage.errors import InputError

    for place in [0, 1, *sorted(campaign.draw.sample(range(2, len(content) - 1), 17)), len(content) - 1]:
        final.write_bytes(content[:place])
        try:
            Checkpointer(output).read(final)
            told.append(f"READ at {place}")
        except InputError as error:
            told.append("one line" if "the previous one is model_" in str(error) else f"OTHER: {error}")
    final.write_bytes(content)
    assert pointer.read_text() == final.name
    yield (
        "checkpoint truncated",
        f"at {len(told)} places",
        ", ".join(f"{told.count(t)} x {t}" for t in dict.fromkeys(told)),
    )


def worker(campaign: Campaign) -> Iterator[Row]:
    """A killed data worker."""
    output = campaign.folder / "worker"
    process = campaign.start(output)
    wait_for(lambda: (output / "metrics.json").exists(), process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGKILL)
    status = campaign.finish(process)
    ended = (output / "log.txt").read_text().strip().splitlines()[-1]
    yield "data worker killed", f"status {status}, log.txt ends: {ended}", campaign.compared(output)


def rank(campaign: Campaign) -> Iterator[Row]:
    """One of two processes is killed: the other ends, and log.txt says why."""
    for victim in ("first", "second"):
        output = campaign.folder / f"rank_{victim}"
        process = campaign.start(output, "--num-gpus", "2", "train.max_iter=4000")
        wait_for(lambda output=output: (output / "metrics.json").exists(), process)
        second = next(pid for pid in children_of(process.pid) if "crossstage" in command_of(pid))
        os.kill(process.pid if victim == "first" else second, signal.SIGKILL)
        started = time.monotonic()
        status = campaign.finish(process)
        while Path(f"/proc/{second}").exists() and time.monotonic() - started < 120:
            time.sleep(0.1)
        seconds = time.monotonic() - started
        log = (output / "log.txt").read_text()
        cause = [line[:130] for line in log.splitlines() if re.search("the run end|Another process", line)]
        told = f"all ended after {seconds:.0f} s, status {status}"
        yield f"{victim} of two processes killed", told, "; ".join(cause) or "NO CAUSE in log.txt"


def children_of(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command_of(pid: int) -> str:
    """The command line of a process."""
    return Path(f"/proc/{pid}/cmdline").read_text()


def others(campaign: Campaign) -> Iterator[Row]:
    """Two runs at once, a start right after a kill, a clock that jumps."""
    output = campaign.folder / "twice"
    process = campaign.start(output, "train.max_iter=4000")
    wait_for(lambda: (output / "metrics.json").exists(), process)
    second = campaign.start(output)
    status = campaign.finish(second)
    process.kill()
    campaign.finish(process)
    yield "two runs at once", f"status {status}", campaign.errors(output).replace(str(campaign.folder), "")
    third = campaign.start(output, "train.max_iter=2")
    yield "at once after kill -9", "the same folder", f"status {campaign.finish(third)}"
    output = campaign.folder / "clock"
    status = campaign.finish(campaign.start(output, FAULTS_CLOCK="jumps"))
    yield "clock jumps by a day", f"status {status}", campaign.compared(output)


PARTS = {
    "kill": kill,
    "signals": signals,
    "disk": disk,
    "readonly": readonly,
    "memory": memory,
    "truncated": truncated,
    "worker": worker,
    "rank": rank,
    "others": others,
}


def main() -> None:
    """Run the chosen parts and print a row for each fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=[], metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(Path(folder), kills=arguments.kills, seed=arguments.seed)
        print("| fault | moment, end | result |\n| --- | --- | --- |", flush=True)
        for name in arguments.parts or PARTS:
            for row in PARTS[name](campaign):
                print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
