"""detrex without a compiler and a GPU: stand-ins for what its Python code needs, batches, and its training script.

detrex and detectron2 come by PYTHONPATH from checkouts outside of this one, detrex's first: its `projects` and ours
have the same name. Nothing of them is copied here.
"""

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import torch

from crossstage.layers.boxes import box_iou
from crossstage.torchvision_on_cpu import declare_missing_operators
from csla.detrex_check import NUM_CLASSES

declare_missing_operators()  # before detectron2 imports torchvision

SIZE = (64, 96)


def stub() -> None:
    """Stand-ins for detrex's compiled operators, two packages that are gone or need an account, and CUDA."""
    for name in ("detrex._C", "wandb", "pkg_resources"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["pkg_resources"].resource_filename = _resource_filename
    own_to = torch.Tensor.to
    import torchvision

    torchvision.ops.boxes.nms = _nms  # DETA's; a torchvision without compiled operators lacks it
    torch.Tensor.cuda = lambda self, *_, **__: self
    torch.Tensor.to = lambda self, *to, **keywords: self if to == ("cuda",) else own_to(self, *to, **keywords)


def _nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Greedy non-maximum suppression: indices of the boxes that stay, by falling score."""
    left = scores.argsort(descending=True)
    kept = []
    while len(left):
        kept.append(left[0])
        overlap = box_iou(boxes[left[:1]], boxes[left])[0]
        left = left[(overlap <= iou_threshold) & (left != left[0])]
    return torch.stack(kept) if kept else scores.new_zeros(0, dtype=torch.int64)


def _resource_filename(package: str, path: str) -> str:
    """`configs/...` of a checkout: setup.py would link it into `detrex/config` and `detectron2/model_zoo`."""
    return str(Path(importlib.util.find_spec(package.split(".")[0]).origin).parents[1] / path)


def batch(*counts: int, seed: int = 0, size: tuple[int, int] = SIZE) -> list[dict[str, Any]]:
    """Images of a size (height, width) with so many objects each, as detrex's mapper makes them."""
    from detectron2.structures import Boxes, Instances

    generator = torch.Generator().manual_seed(seed)
    height, width = size
    extent = torch.tensor([width, height, width, height])
    inputs = []
    for image_id, count in enumerate(counts):
        corners = torch.rand(count, 2, 2, generator=generator).sort(dim=1).values * 0.8
        corners[:, 1] += 0.1
        instances = Instances(size, gt_boxes=Boxes(corners.flatten(1) * extent))
        instances.gt_classes = torch.randint(NUM_CLASSES, (count,), generator=generator)
        pixels = torch.randint(256, (3, *size), generator=generator, dtype=torch.uint8)
        inputs.append({"image": pixels, "instances": instances, "height": height, "width": width, "image_id": image_id})
    return inputs


def register_toy(root: str) -> None:
    """Make `python -m crossstage.data.toy`'s dataset known to detectron2 as toy_train and toy_val."""
    from detectron2.data.datasets import register_coco_instances

    for split in ("train", "val"):
        json_file = f"{root}/annotations/instances_{split}2017.json"
        register_coco_instances(f"toy_{split}", {}, json_file, f"{root}/{split}2017")


def run_script(path: Path, arguments: list[str]) -> None:
    """Run a train_net.py of detrex or detectron2, with detectron2's plain step, which needs no CUDA."""
    from detectron2.engine import SimpleTrainer

    spec = importlib.util.spec_from_file_location("train_net", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    if hasattr(script, "Trainer"):
        script.Trainer.run_step = SimpleTrainer.run_step
    script.main(script.default_argument_parser().parse_args(arguments))


if __name__ == "__main__":
    stub()
    register_toy(sys.argv[1])
    run_script(Path(sys.argv[2]), sys.argv[3:])
