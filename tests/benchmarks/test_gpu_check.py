"""The GPU check runs on a CPU at tiny sizes, so that it works on the day a GPU is lent."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_every_section_runs_at_tiny_sizes(tmp_path: Path):
    command = [sys.executable, "benchmarks/gpu/check.py", "--device", "cpu", "--tiny", "--skip", "tests,compiled"]
    plain = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}  # it takes minutes
    plain["OMP_NUM_THREADS"] = "1"
    command += ["--out", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=plain)
    assert run.returncode == 0, run.stderr
    assert run.stdout.rstrip().endswith("sections failed: none"), run.stdout[-2000:]
    results = json.loads((tmp_path / "gpu_check.json").read_text())
    assert {"env", "msda", "pyramid", "criterion", "steps", "variants"} <= results.keys()


def test_the_kernels_compile_for_an_h100_without_spills_and_with_atomics_of_four_numbers():
    """Only a compiler for another GPU is needed: Triton's wheel brings it."""
    pytest.importorskip("triton", reason="the kernels need Triton (pip install triton)")
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu.offline"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("0 bytes spilled") == 4
