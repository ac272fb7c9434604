"""The GPU check runs on a CPU at tiny sizes, so that it works on the day a GPU is lent."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_section_runs_at_tiny_sizes(tmp_path: Path):
    command = [sys.executable, "benchmarks/gpu/check.py", "--device", "cpu", "--tiny", "--skip", "tests,compiled"]
    run = subprocess.run([*command, "--out", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert run.stdout.rstrip().endswith("sections failed: none"), run.stdout[-2000:]
    results = json.loads((tmp_path / "gpu_check.json").read_text())
    assert {"env", "msda", "pyramid", "criterion", "steps", "variants"} <= results.keys()
