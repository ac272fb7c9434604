"""An exported file as a function again, to compare it with its model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

Detecting = Callable[[Tensor], tuple[Tensor, ...]]
"""uint8 pixels [B, 3, H, W] on the CPU -> boxes_xyxy [B, D, 4], scores [B, D] and labels [B, D]."""


def loaded(file: Path, *, form: str, threads: int = 1) -> tuple[Detecting, Mapping[str, str]]:
    """Load a file.

    Args:
        file: as `write` wrote it.
        form: its format.
        threads: threads of onnxruntime; torch's are set by `torch.set_num_threads`.

    Returns:
        The function, and the facts by name.
    """
    if form == "onnx":
        return _in_onnxruntime(file, threads)
    facts = {"facts.json": ""}
    graph = torch.export.load(file, extra_files=facts).module()

    def detect(pixels: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return graph(pixels)

    return detect, json.loads(facts["facts.json"])


def _in_onnxruntime(file: Path, threads: int) -> tuple[Detecting, Mapping[str, str]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def detect(pixels: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(found) for found in session.run(None, {"pixels": pixels.numpy()}))

    return detect, session.get_modelmeta().custom_metadata_map
