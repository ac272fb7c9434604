"""Makes `import torchvision` work together with a torch that has no CUDA.

PyPI's torchvision wheels are linked against CUDA. With a CPU-only torch their compiled operators cannot be loaded, and
`import torchvision` then fails while it describes `nms`, although this library only uses parts of torchvision that are
written in Python (transforms v2, tv_tensors). For the import it is enough to declare the signatures of the two
operators without a kernel; a call of them still raises an error. If the binaries can be loaded, nothing is declared.
"""

import importlib.util
from pathlib import Path

import torch

_NMS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[torch.library.Library] = []  # the declarations of a Library exist only as long as the object


def declare_missing_operators() -> None:
    """Declare torchvision's `nms` and `qnms` if its compiled operators cannot be loaded here."""
    spec = importlib.util.find_spec("torchvision")
    if _declared or spec is None:
        return
    binaries = [path for folder in spec.submodule_search_locations or () for path in Path(folder).glob("_C.*")]
    try:
        for path in binaries:
            torch.ops.load_library(path)
    except OSError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(name + _NMS)
        _declared.append(library)
