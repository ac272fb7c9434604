"""Section processes: what two processes compute together on one device, over gloo, and what a sharded model computes.

NCCL refuses two processes on one GPU, and gloo cannot gather tensors of a GPU. So DDP is compared over gloo with two
processes on the same device, and FSDP with one process over NCCL on a GPU, with two over gloo on a CPU.
"""

from __future__ import annotations

import argparse
import json
import socket
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from benchmarks.gpu.record import Check
from benchmarks.gpu.scenes import batch_of, build_model
from crossstage.engine.network import Envelope, LossNetwork
from crossstage.engine.sharding import gathered, shard


def section_processes(check: Check) -> None:
    """The loss and the norm of the gradient: of one process, of DDP, and of shards. All see the same two images."""
    alone = losses(LossNetwork(model_of(check)), check)
    check.put("processes", "one process: loss, norm of the gradient", alone)
    cases = [("ddp", 2, "gloo"), ("fsdp", 1, "nccl") if check.cuda else ("fsdp", 2, "gloo")]
    for strategy, count, backend in cases:
        label = f"{strategy}, {count} process{'es' * (count > 1)}, {backend}"
        if check.left() < 10:
            check.put("processes", label, f"left out: {check.left():.0f} s left")
            continue
        try:
            found = together(check, strategy, count, backend)
        except Exception as error:
            check.put_error("processes", label, error)
            check.put("processes", f"{label}: equal to one", "FAILED")
            continue
        check.put("processes", f"{label}: loss, norm of the gradient of each", found)
        equal = all(abs(a - b) <= 2e-3 * abs(b) for pair in found for a, b in zip(pair, alone, strict=True))
        check.put("processes", f"{label}: equal to one", "yes" if equal else "FAILED")


def together(check: Check, strategy: str, count: int, backend: str) -> list[list[float]]:
    """Run a strategy in processes of its own; returns the loss and the norm that each has found."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        meeting = f"tcp://localhost:{probe.getsockname()[1]}"
    files = [check.scratch / f"{strategy}_{rank}.json" for rank in range(count)]
    started: Any = multiprocessing.start_processes(
        work, (vars(check.args), strategy, backend, meeting, files), nprocs=count, join=False, start_method="spawn"
    )
    try:
        while not started.join(timeout=1):
            if check.left() < 2:
                raise TimeoutError("the processes did not end in time")
    finally:
        for process in started.processes:
            process.kill()
    return [json.loads(file.read_text()) for file in files]


def work(rank: int, args: dict[str, Any], strategy: str, backend: str, meeting: str, files: list[Path]) -> None:
    """One process."""
    check = Check(argparse.Namespace(**args), device=torch.device(args["device"]), start=0.0)
    torch.set_num_threads(1)
    distributed.init_process_group(backend, init_method=meeting, rank=rank, world_size=len(files))
    network: nn.Module = LossNetwork(model_of(check))
    if strategy == "ddp":
        network = DistributedDataParallel(network, broadcast_buffers=False)
    else:
        names = ("data_parallel", "tensor_parallel")
        shard(network, init_device_mesh(check.device.type, (len(files), 1), mesh_dim_names=names))
    files[rank].write_text(json.dumps(losses(network, check)))
    distributed.destroy_process_group()


def model_of(check: Check) -> nn.Module:
    """DINO without denoising, whose noise each process would draw for itself."""
    model = build_model(check, "dino")
    model.queries.extra = nn.ModuleDict()
    return model


def losses(network: nn.Module, check: Check) -> list[float]:
    """The loss and the norm of the gradient of one step, in float32: TF32 would choose other queries."""
    chosen, in_cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False  # on in a process of its own
    total: Tensor = network(Envelope(batch_of(check)))[0]
    total.backward()
    torch.set_float32_matmul_precision(chosen)  # for the sections that follow
    torch.backends.cudnn.allow_tf32 = in_cudnn
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    norm = gathered(torch.nn.utils.get_total_norm(gradients))
    return [round(total.item(), 5), round(norm.item(), 5)]
