"""Section build: the reference CUDA op (Deformable-DETR's sources), built in the background while others run."""

from __future__ import annotations

import os
import re
import tempfile
import threading
import time
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from benchmarks.gpu.forms import shapes_tensor
from benchmarks.gpu.record import Check
from crossstage.structures import Levels

# What today's torch calls otherwise than the sources do.
PATTERNS = (
    (r"(\w+)\.type\(\)\.is_cuda\(\)", r"\1.is_cuda()"),
    (r"AT_DISPATCH_FLOATING_TYPES\((\w+)\.type\(\)", r"AT_DISPATCH_FLOATING_TYPES(\1.scalar_type()"),
    (r"(\w+)\.data<", r"\1.data_ptr<"),
    (r"THC/THCAtomics\.cuh", "ATen/cuda/Atomic.cuh"),
    (r"#include <THC/THC\.h>", ""),
    (r"ATen/cuda/CUDAContext\.h", "c10/cuda/CUDAStream.h"),
    (r"at::cuda::getCurrent", "c10::cuda::getCurrent"),
)

BINDING = """#include "ms_deform_attn.h"
PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("ms_deform_attn_forward", &INSIDE::ms_deform_attn_forward);
  m.def("ms_deform_attn_backward", &INSIDE::ms_deform_attn_backward);
}
"""


class ReferenceOp:
    """The op while it is built and after; `says` tells what came of it."""

    def __init__(self) -> None:
        self.module: ModuleType | None = None
        self.says = "no sources or no GPU: left out"
        self._thread: threading.Thread | None = None

    def start(self, source: Path) -> None:
        """Begin to build."""
        self.says = "not ready"
        self._thread = threading.Thread(target=self._build, args=(source,), daemon=True)
        self._thread.start()

    def is_ready(self, patience: float) -> bool:
        """Wait so many seconds at most; whether it can be called."""
        if self._thread is not None:
            self._thread.join(timeout=patience)
        return self.module is not None

    def form(self, values: Tensor, levels: Levels, *, locations: Tensor, weights: Tensor) -> Tensor:
        """Deformable sampling by the op; shapes as in `forms`."""
        shapes = shapes_tensor(levels.shapes, values.device)
        return _Call.apply(values.to(locations.dtype), shapes, levels.starts, locations, weights)

    def _build(self, source: Path) -> None:
        try:
            from torch.utils.cpp_extension import load

            work = Path(tempfile.gettempdir()) / "msda_build"
            work.mkdir(exist_ok=True)
            files = _renewed(source, work)
            os.environ["TORCH_CUDA_ARCH_LIST"] = ".".join(map(str, torch.cuda.get_device_capability()))
            began, flags = time.monotonic(), ["-O3", "-DWITH_CUDA"]
            self.module = load(
                "ms_deform_attn_reference",
                files,
                extra_include_paths=[str(work)],
                extra_cflags=flags,
                extra_cuda_cflags=flags,
            )
            self.says = f"built in {time.monotonic() - began:.0f} s"
        except Exception as error:
            self.says = str(error)[-600:]


OP = ReferenceOp()


def section_build(check: Check) -> None:
    """Start the build if there are sources and a GPU."""
    source = Path(check.args.cuda_op)
    if check.cuda and source.is_dir():
        OP.start(source)
    else:
        check.put("build", "reference CUDA op", OP.says)


def _renewed(source: Path, work: Path) -> list[str]:
    """Copy the sources, in the words of today's torch; returns the files to compile.

    Deformable-DETR's have a file that binds the two functions to Python. Detrex's do so elsewhere: one is added.
    """
    files, everything = [], ""
    for path in sorted(path for path in source.rglob("*") if path.suffix in {".cu", ".cuh", ".h", ".cpp"}):
        text = path.read_text()
        for pattern, new in PATTERNS:
            text = re.sub(pattern, new, text)
        everything += text
        (work / path.name).write_text(text)
        files += [str(work / path.name)] * (path.suffix in {".cu", ".cpp"})
    if "PYBIND11_MODULE" not in everything:
        namespace = re.search(r"namespace (\w+)", everything)
        inside = f"{namespace[1]}::" if namespace else ""
        (work / "binding.cpp").write_text(BINDING.replace("INSIDE::", inside))
        files.append(str(work / "binding.cpp"))
    return files


class _Call(torch.autograd.Function):
    """The op with its gradients; 64 images at a time."""

    @staticmethod
    def forward(ctx, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        return OP.module.ms_deform_attn_forward(*inputs, 64)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        values, locations, weights = OP.module.ms_deform_attn_backward(*ctx.saved_tensors, grad.contiguous(), 64)
        return values, None, None, locations, weights
