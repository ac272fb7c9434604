"""Reads weight files of all usual formats without running code that may be in them."""

from __future__ import annotations

import argparse
import codecs
import importlib
import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crossstage.checkpoints.tensor_file import read_tensors
from crossstage.errors import InputError

# The module that numpy's pickles refer to; numpy 2 has moved it.
_MULTIARRAY: Any = importlib.import_module(f"numpy.{'_core' if hasattr(np, '_core') else 'core'}.multiarray")


class UnsafeFileError(InputError, pickle.UnpicklingError):
    """A file contains code, which the usual way of reading would run; it was not run."""


def read_file(path: Path) -> dict[str, Any]:
    """Read a file of weights.

    Args:
        path: .pth, .pt, .bin or .ckpt (written by torch.save), .safetensors, or .pkl (numpy arrays, as in
            detectron2's model zoo).

    Returns:
        The content. Tensors are on the CPU, and numpy arrays have become tensors.

    Raises:
        InputError: if the file is truncated, of another kind, or does not hold a dict.
        UnsafeFileError: if it holds anything but tensors, arrays, numbers and plain containers; names the class. The
            options in DETR's checkpoints are allowed, and mmengine's logged values become empty objects.
    """
    try:
        content = _READERS.get(path.suffix.lower(), _read_torch)(path)
    except InputError:
        raise
    except Exception as error:  # the readers raise a dozen kinds of errors, from EOFError to RuntimeError
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise InputError(
            f"{path}: truncated, damaged or not a file of weights ({reason}); expected .pth, .safetensors or .pkl"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}; expected a dict of tensors or a checkpoint")
    return _as_tensors(content)


def _read_torch(path: Path) -> Any:
    # DETR's own checkpoints store their options as argparse.Namespace, which has attributes but no behaviour.
    allowed = [argparse.Namespace, *_numpy_globals(), *_MMENGINE]
    with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Detected pickle protocol")  # the file is read or refused anyway
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            found = re.search(r"GLOBAL ([\w.]+)", str(error)) or re.search(
                r"Unsupported (?:class|operand) (\S+)", str(error)
            )
            if found is None:
                raise
            raise _refusal(path, found[1]) from error


def _read_pickle(path: Path) -> Any:
    with path.open("rb") as file:
        return _PlainUnpickler(file, path).load()


_READERS: dict[str, Callable[[Path], Any]] = {
    ".safetensors": read_tensors,
    ".pkl": _read_pickle,
    ".pickle": _read_pickle,
}


class _LogValues:
    """Empty stand-in for mmengine's class of logged values, which its checkpoints hold next to the weights."""

    def __setstate__(self, state: Any) -> None:
        """Drop what the file stores of the object."""


def _method_of_log_values(owner: Any, name: str) -> None:
    """Stand-in for `getattr`, with which mmengine's checkpoints refer to the methods of that class; returns None.

    Raises UnpicklingError for a method of anything else.
    """
    if owner is not _LogValues:
        raise pickle.UnpicklingError("Unsupported operand getattr")


_MMENGINE = [(_LogValues, "mmengine.logging.history_buffer.HistoryBuffer"), (_method_of_log_values, "builtins.getattr")]


class _PlainUnpickler(pickle.Unpickler):
    """Unpickler for numpy arrays and ordered dicts only; it refuses any other class without importing it."""

    def __init__(self, file: Any, path: Path) -> None:
        super().__init__(file, encoding="latin1")  # detectron2's files were written by Python 2
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        """Return the class if it only holds data; otherwise raise UnsafeFileError."""
        found = _PLAIN.get((module, name))
        if found is None:
            raise _refusal(self.path, f"{module}.{name}")
        return found


def _refusal(path: Path, name: str) -> UnsafeFileError:
    return UnsafeFileError(
        f"{path}: refused, it contains {name}, which is code or an object and was not run; expected tensors, arrays, "
        "numbers and plain containers (save the state dict alone, e.g. as .safetensors)"
    )


def _encode(text: str, encoding: str) -> bytes:
    """The part of `_codecs.encode` that numpy's pickles use."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"encoding {encoding}")
    return codecs.encode(text, encoding)


def _numpy_globals() -> list[Any]:
    types = [type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")]
    # The names of both numpy 1 and 2, so that each reads the other's files.
    functions = [(item, f"{module}.{name}") for (module, name), item in _PLAIN.items() if module.endswith("multiarray")]
    return [np.ndarray, np.dtype, *functions, *dict.fromkeys(types)]


def _plain_classes() -> dict[tuple[str, str], Any]:
    classes: dict[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): OrderedDict,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _encode,
    }
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        classes[module, "_reconstruct"] = _MULTIARRAY._reconstruct
        classes[module, "scalar"] = _MULTIARRAY.scalar
    return classes


_PLAIN = _plain_classes()


def _as_tensors(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_tensors(item) for key, item in value.items()}
    if isinstance(value, np.ndarray) and value.dtype != object and value.dtype.kind in "biuf":
        return torch.from_numpy(
            np.ascontiguousarray(value).astype(value.dtype.newbyteorder("="), copy=True).reshape(value.shape)
        )
    return value
