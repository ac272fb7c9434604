"""Query-based object detectors (the DETR family): data, parts, training, evaluation, LazyConfig.

- `structures`: the values that flow between the parts; read it first
- `detections`: what a detector finds in an image, and its forms in COCO's JSON and in supervision
- `movable`: the base of these values: `.to(device, dtype)`
- `config`: nodes that describe calls, loaded from files and overridden on the command line
- `configs`: the config nodes that all projects share
- `projects`: the detectors of the papers: configs, and the parts that only one paper needs
- `data`: data sets, augmentation, loaders
- `layers`: tensor building blocks that are independent of detectors
- `modeling`: the parts of a detector
- `checkpoints`: weights in files: reading, renaming, writing
- `engine`: training runs
- `evaluation`: COCO's metrics and the cost of a model
- `deployment`: detectors in files that other runtimes execute
- `fonts`: fonts for texts in any script
- `inference`: a trained detector in use, from Python (`crossstage.load`)
- `inspection`: figures of what a trained detector does
- `visualize`: pictures of boxes
- `reproduction`: the papers' tables as runs
- `interop`: detectron2's data and training loops
- `cli`: the commands
- `errors`: mistakes of the user, and numbers that are not finite
- `files`: writes files completely or not at all
- `accumulation`: the counts that the batches of one optimizer step share
- `processes`: messages between the processes of a run
- `random_state`: the random generators of a process
- `torchvision_on_cpu`: importing torchvision with CUDA operators together with a torch without CUDA
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crossstage.inference.loading import load

__all__ = ["__version__", "load"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import `load` on first use (PEP 562): it needs torch, and `import crossstage` does not."""
    if name != "load":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module("crossstage.inference.loading").load
