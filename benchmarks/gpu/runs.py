"""Sections training, full and resume: runs of `crossstage train` on generated pictures, each in its own process."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.record import Check
from crossstage.checkpoints.load import read_checkpoint
from crossstage.data.toy.generate import main as write_toy


def section_training(check: Check) -> None:
    """DINO and StageInteractor learn in bfloat16: the loss falls, and AP is above 0."""
    steps = 4 if check.tiny else 300
    for config in ("dino_toy", "stage_interactor_toy"):
        if check.left() < 25:
            check.put("training", config, f"left out: {check.left():.0f} s left")
            continue
        folder = check.scratch / config
        command = train_command(check, config, folder, steps)
        began = time.monotonic()
        try:
            subprocess.run(command, cwd=check.project, check=True, capture_output=True, timeout=check.left() - 5)
        except subprocess.SubprocessError as error:
            check.put("training", config, f"FAILED: {told(error)}")
            continue
        shutil.copy(folder / "log.txt", check.out / f"training_{config}.txt")
        rows = metrics_of(folder)
        losses = [row["total_loss"] for row in rows if "total_loss" in row]
        first, last = losses[0], statistics.median(losses[-3:])
        score = next(row["bbox/AP"] for row in reversed(rows) if "bbox/AP" in row)
        times = [row["time"] for row in rows if "time" in row]
        seconds = round(time.monotonic() - began, 1)
        dtype = "float32" if check.tiny else "bf16"
        key = f"{config} {dtype}, {steps} steps: loss at first, at last; AP; s per step; s"
        check.put(
            "training", key, [round(first, 3), round(last, 3), score, round(statistics.median(times), 4), seconds]
        )
        learns = last < first and (score or 0) > 0
        verdict = "not asked of a tiny run" if check.tiny else "yes" if learns else "FAILED: it does not learn"
        check.put("training", f"{config}: learns", verdict)


def section_full(check: Check) -> None:
    """DINO R50 and StageInteractor R50 with their loaders, 16 pictures of 800 x 1066 pixels a step, in bfloat16."""
    small = ["dataloader.train.total_batch_size=2", "model.backbone.options.layers=[1,1,1,1]"]
    large = ["dataloader.train.total_batch_size=16", "dataloader.train.num_workers=14"]
    data = check.scratch / "large"
    images = ["--train", "8", "--val", "2", "--size", "64"] if check.tiny else ["--train", "160", "--val", "8"]
    write_toy(["--output", str(data), *images, *([] if check.tiny else ["--size", "640", "--workers", "16"])])
    for config in ("dino_toy_csla",) if check.tiny else ("dino_r50_4scale_12ep_csla", "stage_interactor_r50_12ep"):
        folder, steps = check.scratch / f"full_{config}", 2 if check.tiny else 40
        options = [
            f"dataloader.root={data}",
            "model.num_classes=8",
            "model.backbone.pretrained=False",
            *(small if check.tiny else large),
        ]
        command = train_command(check, config, folder, steps, *options)
        try:
            subprocess.run(command, cwd=check.project, check=True, capture_output=True, timeout=check.left() - 2)
        except subprocess.SubprocessError as error:
            check.put("full", config, f"FAILED: {told(error)}")
            continue
        rows = metrics_of(folder)
        times = [(row["time"], row["data_time"]) for row in rows if "time" in row]
        step, waited = (round(statistics.median(column), 3) for column in zip(*times[len(times) // 2 :], strict=True))
        shutil.copy(folder / "log.txt", check.out / f"full_{config}.txt")
        check.put("full", f"{config}: s per step, of these waiting for pictures", [step, waited])


def section_resume(check: Check) -> None:
    """A run that is killed and resumed ends with the same bits; without deterministic algorithms, with near ones."""
    for exact in (True, False):
        label = f"{'deterministic' if exact else 'usual'} algorithms"
        if not exact and check.left() < 20:
            return check.put("resume", label, f"left out: {check.left():.0f} s left")
        try:
            farthest, finished = killed_and_resumed(check, exact=exact)
        except subprocess.SubprocessError as error:
            for log in check.scratch.glob(f"*_{exact}/log.txt"):
                shutil.copy(log, check.out / f"resume_{log.parent.name}.txt")
            # A GPU may lack the deterministic form of an operation, which its message names.
            fails = "" if exact and check.cuda else "FAILED: "
            check.put("resume", f"{label}: the run ends with", f"{fails}{told(error)}")
            continue
        check.put("resume", f"{label}: largest difference of a weight; finished before the kill", [farthest, finished])
        good = farthest == 0 if exact else farthest < 1.0
        return check.put("resume", f"{label}: as if not killed", "yes" if good else f"FAILED: {farthest:.1e}")
    return None


def killed_and_resumed(check: Check, *, exact: bool) -> tuple[float, bool]:
    """The largest difference to the weights of a run that was not killed, and whether the kill came too late."""
    steps, period = (4, 2) if check.tiny else (20, 10)
    options = [f"train.deterministic={exact}", f"train.checkpointer.period={period}"]
    whole, killed = (check.scratch / f"{name}_{exact}" for name in ("whole", "killed"))
    command = train_command(check, "dino_toy", whole, steps, *options)
    subprocess.run(command, cwd=check.project, check=True, capture_output=True, timeout=check.left() / 2)
    command = train_command(check, "dino_toy", killed, steps, *options)
    process = subprocess.Popen(command, cwd=check.project, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(killed / f"model_{period - 1:07d}.pth", process, seconds=check.left() / 2)
    finally:
        process.kill()
        process.wait()
    finished = (killed / "model_final.pth").exists()
    command += ["--resume"]
    subprocess.run(command, cwd=check.project, check=True, capture_output=True, timeout=check.left() - 3)
    ends = [read_checkpoint(folder / "model_final.pth")["model"] for folder in (whole, killed)]
    return max((ends[0][name].float() - ends[1][name].float()).abs().max().item() for name in ends[0]), finished


def train_command(check: Check, config: str, folder: Path, steps: int, *overrides: str) -> list[str]:
    """The command line of a short run in bfloat16."""
    data = check.scratch / "toy"
    if not data.exists():
        images = ["--train", "8", "--val", "4"] if check.tiny else ["--train", "400", "--val", "50"]
        write_toy(["--output", str(data), *images, "--workers", "1" if check.tiny else "8"])
    values = {
        "dataloader.root": data,
        "train.output_dir": folder,
        "train.device": check.device.type,
        "train.amp.enabled": not check.tiny,  # bfloat16 takes a CPU long
        "train.max_iter": steps,
        "train.eval_period": 0,
        "train.log_period": max(steps // 25, 1),
        "train.checkpointer.period": steps,
        "train.best_metric": "",
        "dataloader.train.num_workers": 0 if check.tiny else 4,
        "dataloader.test.num_workers": 0,
        **({"dataloader.train.total_batch_size": 2, "dataloader.image_size": 64} if check.tiny else {}),
    }
    given = [f"{key}={value}" for key, value in values.items()]
    return [sys.executable, "-m", "crossstage", "train", "--config-file", config, *given, *overrides]


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.json."""
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def wait_for(file: Path, process: subprocess.Popen, *, seconds: float) -> None:
    """Wait until a file is there. Raises TimeoutExpired after `seconds`, CalledProcessError if the process fails."""
    deadline = time.monotonic() + seconds
    while not file.exists():
        if process.poll():
            raise subprocess.CalledProcessError(process.returncode, process.args)
        if time.monotonic() > deadline:
            raise subprocess.TimeoutExpired(process.args, seconds)
        time.sleep(0.05)


def told(error: subprocess.SubprocessError) -> str:
    """The last line that a process wrote before it failed."""
    written = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip().splitlines()
    return f"{type(error).__name__}: {(written or [str(error)[-200:]])[-1][:250]}"
