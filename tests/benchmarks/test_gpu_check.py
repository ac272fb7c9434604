"""The GPU check runs on a CPU at tiny sizes, so that it works on the day a GPU is lent."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.gpu import device, reference_op
from benchmarks.gpu.check import BUDGET, SECTIONS, run_section
from benchmarks.gpu.record import Check

ROOT = Path(__file__).resolve().parents[2]


def check(folder: Path, *options: str) -> dict:
    """The results of a tiny run on the CPU."""
    command = [sys.executable, "benchmarks/gpu/check.py", "--device", "cpu", "--tiny", *options]
    plain = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}  # it takes minutes
    plain["OMP_NUM_THREADS"] = "1"
    command += ["--out", str(folder), "--budget", "2000"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, env=plain)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr
    assert run.stdout.rstrip().endswith("sections failed: none"), run.stdout[-2000:]
    return json.loads((folder / "gpu_check.json").read_text())


def test_the_sections_of_operations_and_of_a_step_run_at_tiny_sizes(tmp_path: Path):
    results = check(tmp_path, "--skip", "tests,variants,training,full,resume,processes", "--models", "dino")
    assert {"env", "msda", "pyramid", "criterion", "steps", "compiled"} <= results.keys()
    assert "left out" in results["compiled"]  # inductor, with the reason


whole = pytest.mark.skipif("GPU_CHECK_RUNS" not in os.environ, reason="takes minutes; GPU_CHECK_RUNS=1 runs it")


@whole
def test_the_steps_of_all_models_and_their_variants_run_at_tiny_sizes(tmp_path: Path):
    results = check(tmp_path, "--only", "steps,variants")
    assert {key.split()[0] for key in results["steps"]} == {"dino", "stage_interactor", "deformable", "adamixer"}
    assert "left out" in str(results["variants"])  # inductor, with the reason


@whole
def test_the_sections_of_whole_runs_run_at_tiny_sizes(tmp_path: Path):
    results = check(tmp_path, "--only", "training,full,resume,processes")
    assert results["resume"]["deterministic algorithms: as if not killed"] == "yes"
    verdicts = [value for key, value in results["processes"].items() if key.endswith("equal to one")]
    assert verdicts == ["yes", "yes"]
    assert len(results["training"]) == 4


def test_a_section_that_fails_or_takes_too_long_ends_alone(tmp_path: Path, monkeypatch, capsys):
    def section_env(check: Check) -> None:
        raise ValueError("no such device")

    def section_tests(check: Check) -> None:
        assert 0 < check.left() <= 1.5
        time.sleep(30)

    monkeypatch.setattr(device, "section_env", section_env)
    monkeypatch.setattr(device, "section_tests", section_tests)
    args = SimpleNamespace(budget=60.0, tiny=True, out=str(tmp_path), project=".")
    run = Check(args, device=torch.device("cpu"), start=time.monotonic())
    for name, seconds in (("env", 5.0), ("tests", 1.5), ("build", 0.5)):
        run_section(run, name, seconds=seconds)
    assert run.left() > 50
    stored = json.loads((tmp_path / "gpu_check.json").read_text())
    assert stored["env"] == {"FAILED": "ValueError: no such device"}
    assert stored["tests"] == {"FAILED": "TimeoutError: longer than its 2 s"}
    assert run.print_all() == ["env", "tests"]
    assert run.results["build"] == {"left out": "the budget is used up"}


def test_the_sections_of_the_first_command_fit_into_what_is_lent():
    (skipped,) = re.findall(r"--skip (\S+)", (ROOT / "benchmarks/gpu/prepare").read_text())
    assert sum(seconds for name, (_, seconds) in SECTIONS.items() if name not in skipped.split(",")) <= BUDGET <= 540


def test_the_kernels_compile_for_an_h100_without_spills_and_with_atomics_of_four_numbers():
    """Only a compiler for another GPU is needed: Triton's wheel brings it."""
    pytest.importorskip("triton", reason="the kernels need Triton (pip install triton)")
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu.offline"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("0 bytes spilled") == 4


def test_sources_of_the_reference_operator_that_bind_nothing_get_a_binding(tmp_path: Path):
    source, work = tmp_path / "source", tmp_path / "work"
    source.mkdir()
    work.mkdir()
    (source / "ms_deform_attn.h").write_text("namespace detrex {\n}\n")
    assert reference_op._renewed(source, work) == [str(work / "binding.cpp")]
    assert "&detrex::ms_deform_attn_forward" in (work / "binding.cpp").read_text()
    (source / "vision.cpp").write_text("PYBIND11_MODULE(x, m) {}\n")
    assert reference_op._renewed(source, work) == [str(work / "vision.cpp")]
