"""What the compiler makes of the kernels for a GPU that is not here: registers, spills, and the width of atomics.

    python -m benchmarks.gpu.offline            # for compute capability 9.0 (H100); needs Triton, and no GPU

Prints one line per kernel and dtype, and ends with status 1 if registers spill to memory or the gradient of the values
is not added four numbers at a time.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

CAPABILITY = 90
TOOLS = "backends/nvidia/bin"  # in Triton's folder
SHAPE = {"LEVELS": 4, "POINTS": 4, "WIDTH": 32, "INNER": 1, "POINTS_2": 4, "WIDTH_2": 32}  # deformable attention's


def main() -> int:
    """Compile both kernels for float32 and bfloat16 values; returns the exit status."""
    os.environ.pop("TRITON_INTERPRET", None)
    from crossstage.layers.ops import bilinear_triton as kernels

    good = True
    for dtype in ("fp32", "bf16"):
        for kernel, (block, warps), constants in (
            (kernels._forward_kernel, kernels.FORWARD, {}),
            (kernels._backward_kernel, kernels.BACKWARD, {"VALUES": True}),
        ):
            assembly = compiled(kernel, dtype, warps, {**SHAPE, "BLOCK": block, **constants})
            registers, spilled = usage(assembly["cubin"])
            atomics = sorted(set(re.findall(r"(?:red|atom)\.global\S*", assembly["ptx"])))
            name = "backward" if constants else "forward"
            print(f"{name} {dtype}: {registers} registers, {spilled} bytes spilled, atomics {atomics or 'none'}")
            good &= spilled == 0 and all(".v4." in atomic for atomic in atomics) and bool(atomics) == bool(constants)
    return 0 if good else 1


def compiled(kernel: Any, dtype: str, warps: int, constants: dict[str, Any]) -> Any:
    """The assembly of a kernel. dtype: Triton's name of the type of values and outputs."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = {"values": f"*{dtype}", "output": f"*{dtype}", "grad": f"*{dtype}", "starts": "*i64"}
    types |= dict.fromkeys(("rows", "tokens", "heads"), "i32") | dict.fromkeys(constants, "constexpr")
    signature = {name: types.get(name, "*fp32") for name in kernel.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if kind.startswith("*")}
    fixed = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, signature=signature, constexprs=fixed, attrs=aligned)
    target = GPUTarget("cuda", CAPABILITY, 32)
    return triton.compile(source, target=target, options={"num_warps": warps}).asm


def usage(cubin: bytes) -> tuple[int, int]:
    """Registers per thread, and bytes of local memory, which is where registers spill to."""
    import triton

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        tool = Path(triton.__file__).parent / TOOLS / "cuobjdump"
        report = subprocess.run([tool, "-res-usage", file], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+).*?LOCAL:(\d+)", report)
    if found is None:
        raise RuntimeError(f"cuobjdump said nothing of registers: {report}")
    return int(found[1]), int(found[2])


if __name__ == "__main__":
    sys.exit(main())
