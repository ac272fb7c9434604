"""Checkpoint files as mmengine writes them: the weights, and the logged values with the methods that summarise them."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import Tensor

_CLASS = "mmengine.logging.history_buffer"
_SOURCE = """
import numpy as np

class HistoryBuffer:
    def __init__(self, values):
        self.max_length, self._log_history, self._count_history = 1000000, np.array(values), np.ones(len(values))

    def mean(self):
        return self._log_history.mean()

    def __getstate__(self):  # since version 0.3; the methods are stored as getattr(HistoryBuffer, name)
        return {**self.__dict__, "statistics_methods": {"mean": HistoryBuffer.mean}}

    def __setstate__(self, state):
        raise AssertionError("the real class was built")
"""


def write_mmengine_file(path: Path, state: Mapping[str, Tensor], **more: Any) -> None:
    """Write a checkpoint with numpy's names of 2023, when the released files were written. more: further contents."""
    modules = {name: ModuleType(name) for name in ("mmengine", "mmengine.logging", _CLASS)}
    exec(_SOURCE, modules[_CLASS].__dict__)
    logged = {"train/loss": modules[_CLASS].HistoryBuffer([2.0, 1.5])}
    hub = {"log_scalars": logged, "runtime_info": {"epoch": 11}, "resumed_keys": {"train/loss": True}}
    written = path.with_name("numpy2.pth")
    with mock.patch.dict(sys.modules, modules):
        torch.save({"meta": {"epoch": 12, "seed": 0}, "state_dict": dict(state), "message_hub": hub, **more}, written)
    with zipfile.ZipFile(written) as ours, zipfile.ZipFile(path, "w") as theirs:
        for name in ours.namelist():
            theirs.writestr(name, ours.read(name).replace(b"numpy._core", b"numpy.core"))
