"""Records an exported detector as a graph, and writes it as ONNX or as torch's own format."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from crossstage.deployment.exported_detector import ExportedDetector, rounded_up, whole_windows
from crossstage.deployment.facts import OUTPUTS, Facts
from crossstage.deployment.for_onnxruntime import quicker
from crossstage.errors import InputError
from crossstage.files import replacing

FORMATS = {"onnx": ".onnx", "torch-export": ".pt2"}  # and how the name of a file ends
EXAMPLE_SIZE = (256, 320)  # recorded for a dynamic size: more than one cell at a stride of 128
EXAMPLE_BATCH = 2  # for a dynamic batch: torch takes a size of 1 for a constant
LARGEST_BATCH = 1024
IN_HALF = ("Conv", "Gemm", "MatMul")  # computed in float16 by --fp16
FORBIDDEN = ("Loop", "Scan", "If", "Sequence", "SplitToSequence")  # beginnings of operators that runtimes refuse


@dataclass(frozen=True)
class Shape:
    """The shape of the input. size: (height, width), None: dynamic. batch: number of images, None: dynamic."""

    size: tuple[int, int] | None = None
    batch: int | None = None

    def example(self, multiples: tuple[int, int] = (1, 1)) -> Tensor:
        """Grey pixels of that shape, uint8 [B, 3, H, W]; a dynamic size is a multiple of `multiples`."""
        # More than one multiple on each side: torch takes a size of 1 for a constant.
        (height, width), (rows, columns) = EXAMPLE_SIZE, multiples
        size = self.size or rounded_up((max(height, 2 * rows), max(width, 2 * columns)), multiples)
        return torch.full((self.batch or EXAMPLE_BATCH, 3, *size), 128, dtype=torch.uint8)

    def dynamic(self) -> dict[int, Any]:
        """The axes that are not fixed, as `torch.export` takes them."""
        axes: dict[int, Any] = {}
        if self.batch is None:
            axes[0] = Dim("batch", min=1, max=LARGEST_BATCH)
        if self.size is None:
            axes |= {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
        return axes

    def __str__(self) -> str:
        size = "dynamic size" if self.size is None else f"size {self.size[0]}x{self.size[1]}"
        return f"{size}, {'dynamic batch' if self.batch is None else f'batch of {self.batch}'}"


def write(detector: ExportedDetector, file: Path, *, form: str, shape: Shape, facts: Facts) -> None:
    """Record the detector and write it with the facts about it.

    Args:
        detector: on the device on which the graph will run (ONNX: any).
        file: to create or replace.
        form: one of `FORMATS`.
        shape: of the input.
        facts: what the file says about itself; its precision is that of the graph.

    Raises:
        InputError: if a package is missing, the graph has an operation without a form in ONNX, or the format has no
            graphs of this precision.
        ValueError: if the size is dynamic, and the detector is not for any size.
    """
    if form == "onnx":
        require_onnx()
    if shape.size is None and detector.multiples != whole_windows(detector.detector.backbone):
        raise ValueError("a graph of any size needs ExportedDetector(detector, any_size=True)")
    if form != "onnx" and facts.precision != "float32":
        raise InputError("--fp16: is for --format onnx; a graph of torch.export is float32")
    with torch.no_grad(), quietly():
        program = recorded(detector, shape)
        graph = in_onnx(program) if form == "onnx" else None
    with replacing(file) as temporary:
        if graph is None:
            with temporary.open("wb") as stream:
                torch.export.save(program, stream, extra_files={"facts.json": json.dumps(facts.texts())})
        else:
            graph.model.metadata_props.update(facts.texts())
            if facts.precision == "float16":
                in_half_precision(graph, temporary)
            else:
                graph.save(temporary)


def recorded(detector: ExportedDetector, shape: Shape) -> ExportedProgram:
    """The graph of torch's operations."""
    example = shape.example(detector.multiples).to(next(detector.parameters()).device)
    return torch.export.export(detector, (example,), dynamic_shapes=({**shape.dynamic()} or None,), strict=False)


def in_onnx(program: ExportedProgram) -> Any:
    """The graph as a `torch.onnx.ONNXProgram`. Raises InputError for an operation without a form in ONNX."""
    try:
        graph: Any = torch.onnx.export(
            program, dynamo=True, verbose=False, input_names=["pixels"], output_names=OUTPUTS
        )
    except torch.onnx.OnnxExporterError as error:
        reason = " ".join(str(error.__cause__ or error).split())[:300]
        raise InputError(
            f"--format onnx: ONNX cannot express this model ({reason}); use --format torch-export"
        ) from error
    kinds = {node.op_type for node in graph.model.graph.all_nodes()}
    if found := sorted(kind for kind in kinds if kind.startswith(FORBIDDEN)):
        raise InputError(
            f"--format onnx: the graph has {', '.join(found)}, which is slow and which other runtimes refuse; use "
            "--format torch-export"
        )
    quicker(graph.model)
    return graph


def in_half_precision(graph: Any, file: Path) -> None:
    """Write the graph with convolutions and matrix products in float16, and all else, as the geometry, in float32."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    kinds = {node.op_type for node in graph.model.graph.all_nodes()}
    model = convert_float_to_float16(graph.model_proto, keep_io_types=True, op_block_list=sorted(kinds - {*IN_HALF}))
    onnx.save(model, file)


def require_onnx() -> None:
    """Raise InputError if a package for ONNX is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"--format onnx: needs the package {error.name}; install them with pip install 'crossstage[export]'"
        ) from error


@contextmanager
def quietly() -> Iterator[None]:
    """Inside, torch's exporters tell neither their progress nor what their users cannot change."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
