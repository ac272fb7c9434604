"""Whether an operation is being recorded for another runtime, which must not depend on our own kernels."""

import torch


def exporting() -> bool:
    """Whether `torch.export` records this call, for itself or for ONNX. `torch.compile` does not count.

    torch has had `torch.compiler.is_exporting` since 2.7; before, nothing can be exported.
    """
    return getattr(torch.compiler, "is_exporting", _never)()


def _never() -> bool:
    return False
