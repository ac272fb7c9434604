"""Sections env and tests: what the device is and does, and the project's tests on it."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import subprocess
import sys
import time

import torch

from benchmarks.gpu.record import Check

TESTS = (  # the files whose tests use a GPU where there is one
    "projects/test_every_detector_on_cuda.py",
    "crossstage/layers/test_layers_bilinear_triton.py",
    "crossstage/layers/test_layers_shared_gradient.py",
)


def section_env(check: Check) -> None:
    """Versions, and the speed of plain operations."""
    check.put("env", "python/torch", f"{platform.python_version()} / {torch.__version__}")
    triton = importlib.util.find_spec("triton") and importlib.import_module("triton").__version__
    check.put("env", "triton", triton)
    check.put("env", "cpus", os.cpu_count())
    if check.cuda:
        gpu = torch.cuda.get_device_properties(0)
        cache, memory = gpu.L2_cache_size / 2**20, gpu.total_memory / 2**30
        check.put("env", "gpu", f"{gpu.name}, {gpu.multi_processor_count} SMs, L2 {cache:.0f} MB, {memory:.0f} GiB")
    clock, device, tiny = check.meter.clock, check.device, check.tiny
    small = torch.zeros(8, device=device)
    queue = check.meter.host(lambda: [small.add_(1) for _ in range(1000)])  # a thousand: ms are microseconds of one
    check.put("env", "host microseconds of a small operation", round(queue, 2))
    size = 2**8 if tiny else 8192
    for name, dtype in (("bf16", torch.bfloat16), ("tf32", torch.float32)):
        matrix = torch.randn(size, size, device=device, dtype=dtype)
        ms = clock(lambda matrix=matrix: matrix @ matrix, rounds=10)
        check.put("env", f"{name} matmul TFLOP/s", round(2 * size**3 / ms / 1e9, 1))
    source = torch.empty((2**20 if tiny else 2**30) // 4, device=device)
    copy = torch.empty_like(source)
    ms = clock(lambda: copy.copy_(source), rounds=10)
    check.put("env", "copy GB/s (read + write)", round(2 * source.numel() * 4 / ms / 1e6, 0))
    target = torch.zeros(2**10 if tiny else 2**22, device=device)
    index = torch.randint(0, target.numel(), (2**10 if tiny else 2**26,), device=device)
    ones = torch.ones(index.numel(), device=device)
    ms = clock(lambda: target.index_add_(0, index, ones), rounds=5)
    check.put("env", "fp32 atomics G/s (index_add_, 16 MB target)", round(index.numel() / ms / 1e6, 2))


def section_tests(check: Check) -> None:
    """The project's tests that need a GPU, or run otherwise on one; their output goes to gpu_tests.txt."""
    files = [str((check.project / "tests" / name).resolve()) for name in TESTS[: 1 if check.tiny else None]]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--no-header", "--tb=short", *files]
    if importlib.util.find_spec("xdist"):
        command += ["-n", "2" if check.tiny else "8"]
    began = time.monotonic()
    limit = check.left() - 2
    try:
        done = subprocess.run(command, cwd=check.project, capture_output=True, text=True, timeout=limit)
        text = done.stdout + done.stderr
    except subprocess.TimeoutExpired as error:
        output = error.stdout or b""  # bytes, whatever `text` says
        text = (output.decode() if isinstance(output, bytes) else output) + "\nTIMEOUT"
    (check.out / "gpu_tests.txt").write_text(text)
    counts = [line for line in text.splitlines() if re.search(r"\d+ (passed|failed|error)", line)]
    check.put("tests", "closing line", (counts or text.strip().splitlines() or ["nothing"])[-1][:160])
    check.put("tests", "seconds", round(time.monotonic() - began, 1))
    failed = [line for line in text.splitlines() if line.startswith(("FAILED", "ERROR"))]
    check.put("tests", "failed", [line[:200] for line in failed[:12]])
