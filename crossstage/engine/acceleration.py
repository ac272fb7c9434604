"""How the device computes: the choices that a config leaves open, made from the device, and their application.

`choose` decides, `apply` changes torch's global settings, the other functions change a model or an optimizer's node.
The section `variants` of `benchmarks/gpu/check.py` measures them; docs/results.md has what it printed on an H200.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from crossstage.errors import InputError

MATMUL_PRECISIONS = {"highest": "float32", "high": "TF32", "medium": "bfloat16"}
FEW_SIZES = 256  # multiples of so many pixels: at most 36 sizes of an image of 1333 pixels


@dataclass(frozen=True)
class Acceleration:
    """What has been chosen.

    Attributes:
        matmul: torch's float32_matmul_precision, or "" where it has no effect.
        channels_last: whether the backbone's convolutions have their channels last in memory.
        cudnn_benchmark: whether cuDNN measures its algorithms for every new size, and takes the fastest.
        compiled: the backend that compiles layers, or "".
    """

    matmul: str = ""
    channels_last: bool = False
    cudnn_benchmark: bool = False
    compiled: str = ""

    def line(self) -> str:
        """The choices in a line for the log; "" if there are none."""
        measured = "by measurement" if self.cudnn_benchmark else "without measurement"
        on_gpu = [
            f"float32 products {MATMUL_PRECISIONS.get(self.matmul)} (train.float32_matmul_precision={self.matmul})",
            f"backbone channels {'last' if self.channels_last else 'first'} (train.channels_last)",
            f"cuDNN chooses {measured} (train.cudnn_benchmark)",
        ]
        parts = on_gpu if self.matmul else ["backbone channels last"] * self.channels_last
        return ", ".join([*parts, *[f"layers compiled by {self.compiled} (train.compile)"] * bool(self.compiled)])


def choose(cfg: DictConfig, device: str) -> Acceleration:
    """Decide what the config leaves open.

    Args:
        cfg: a whole config, of which the train node and dataloader.train.size_divisor are read.
        device: "cuda" or "cpu". On a CPU, channels_last is off unless the config has it on, and cuDNN is not used.

    Returns:
        The choices.

    Raises:
        InputError: for train.strategy=fsdp with compiled layers or with channels_last.
    """
    train, cuda = cfg.train, device == "cuda"
    sharded = train.strategy == "fsdp"
    if sharded and train.channels_last:
        raise InputError(
            "train.channels_last=True with train.strategy=fsdp: FSDP shards only parameters that are contiguous; "
            "expected train.channels_last=False, or train.strategy=ddp"
        )
    if sharded and train.compile.enabled:
        raise InputError(
            "train.compile.enabled=True with train.strategy=fsdp: the two have not been tested together; expected one "
            "of them"
        )
    divisor = OmegaConf.select(cfg, "dataloader.train.size_divisor") or 1
    last, benchmark = train.channels_last, train.cudnn_benchmark
    return Acceleration(
        matmul=train.float32_matmul_precision if cuda else "",
        channels_last=(cuda and not sharded) if last is None else last,
        cudnn_benchmark=cuda and not train.deterministic and (divisor >= FEW_SIZES if benchmark is None else benchmark),
        compiled=train.compile.backend if train.compile.enabled else "",
    )


def apply(chosen: Acceleration) -> None:
    """Set torch's global switches for a GPU."""
    if chosen.matmul:
        torch.set_float32_matmul_precision(chosen.matmul)
        torch.backends.cudnn.allow_tf32 = chosen.matmul != "highest"
        torch.backends.cudnn.benchmark = chosen.cudnn_benchmark


def make_deterministic() -> None:
    """Allow only deterministic algorithms in torch; operators without one raise an error."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def place(model: nn.Module, cfg: DictConfig, device: torch.device) -> None:
    """Move the model of a config to its device, in place, and choose the memory format of its backbone."""
    model.to(device)
    if choose(cfg, device.type).channels_last and isinstance(backbone := getattr(model, "backbone", None), nn.Module):
        for module in backbone.modules():
            if isinstance(module, nn.Conv2d):  # others, such as deformable convolutions, expect contiguous weights
                module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)


def compile_layers(model: nn.Module, backend: str) -> list[nn.Module]:
    """Compile the backbone and each layer of encoder and decoder, in place: the names of parameters stay.

    torch compiles at the first call, for its sizes. When a second size comes it compiles for any size, so that
    neither the sizes of images nor the number of queries cause more than a few compilations.

    Args:
        model: a detector; parts that it does not have are left out.
        backend: torch.compile's; "eager" and "aot_eager" only show whether the layers can be compiled.

    Returns:
        The modules.
    """
    modules = [getattr(getattr(model, "backbone", None), "body", None)]
    for part in ("encoder", "decoder"):
        modules += getattr(getattr(model, part, None), "layers", [])
    found = [module for module in modules if isinstance(module, nn.Module)]
    # The stages of a mixer whose filters later stages reuse are compiled one by one, each twice.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 2 * len(found) + 8)
    for module in found:
        module.compile(backend=backend)
    return found


def uncompiled(train: DictConfig) -> AbstractContextManager:
    """Inside, compiled layers run as usual. Evaluation has other sizes than training, and no gradients."""
    return torch.compiler.set_stance("force_eager") if train.compile.enabled else nullcontext()


def with_fused_steps(optimizer: DictConfig, train: DictConfig, device: str) -> DictConfig:
    """The optimizer's node with fused=True on a GPU, if the optimizer has this option and the config leaves it open.

    The fused step is one kernel per dtype. With fp16 gradients it would also unscale them, after clipping.
    """
    fp16 = train.amp.enabled and train.amp.dtype == "fp16"
    if device == "cuda" and not fp16 and "fused" in optimizer and optimizer.fused is None and not optimizer.foreach:
        optimizer.fused = True
    return optimizer
