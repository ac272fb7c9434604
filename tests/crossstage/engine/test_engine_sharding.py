"""train.strategy=fsdp: two processes that share one model compute, store and load what one process does."""

import os
import shutil
import socket
from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from crossstage.checkpoints.load import read_checkpoint
from crossstage.cli.train import main
from crossstage.config import LazyConfig, find_config, get_config, instantiate
from crossstage.engine.metrics import MetricsFile
from crossstage.engine.network import Envelope, LossNetwork
from crossstage.engine.optim import parameter_groups
from crossstage.engine.setup import choose_strategy
from crossstage.engine.sharding import blocks_of_backbone, gathered, shard
from crossstage.errors import InputError
from tests.random_scenes import image_batch
from tests.tiny_models import tiny

COMMON = ["model.noise=0", "train.max_iter=6", "train.log_period=1", "train.eval_period=0", "train.best_metric=bbox/AP"]
FSDP = ["train.strategy=fsdp", "train.checkpointer.period=100"]
STOP = ["model.accident=SIGTERM", "model.accident_at=3"]


def _run_all(rank: int, runs: list[tuple[list[str], int, int]]) -> None:
    for argv, status, port in runs:
        elastic = {"TORCHELASTIC_RUN_ID": "1", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2", "GROUP_RANK": "0"}
        os.environ.update(elastic, RANK=str(rank), LOCAL_RANK=str(rank), MASTER_ADDR="localhost", MASTER_PORT=str(port))
        assert main(argv) == status


def in_two_processes(*runs: tuple[list[str], int]) -> None:
    """Run command lines, each with its expected status, one after the other, as torchrun would with two processes."""
    with_ports = [(argv, status, free_port()) for argv, status in runs]
    multiprocessing.start_processes(_run_all, (with_ports,), nprocs=2, start_method="fork")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def end(folder: Path) -> dict:
    return read_checkpoint(folder / "model_final.pth")


def farthest(one: dict, other: dict) -> float:
    """The largest difference of weights, averages and moments; the mean colour of a process's own images aside."""
    pairs = [(one[key][name], other[key][name]) for key in ("model", "ema_state") for name in one[key]]
    pairs = [pair for pair in pairs if pair[0].dim()]
    moments = one["optimizer"]["state"]
    assert moments.keys() == other["optimizer"]["state"].keys()
    pairs += [(state[name], other["optimizer"]["state"][key][name]) for key, state in moments.items() for name in state]
    return max((a - b).abs().max().item() for a, b in pairs)


def test_two_processes_that_share_a_model_equal_one_and_checkpoints_load_both_ways(run, arguments, tmp_path):
    one = run("one", *COMMON)
    assert main(arguments("stopped_alone", *COMMON, *STOP)) == 143
    in_two_processes(
        (arguments("shared", *COMMON, *FSDP), 0),
        (arguments("stopped", *COMMON, *FSDP, *STOP), 143),
        (arguments("stopped_alone", *COMMON, *FSDP, "--resume"), 0),
    )
    shutil.copytree(tmp_path / "stopped", tmp_path / "resumed_alone")
    in_two_processes((arguments("stopped", *COMMON, *FSDP, "--resume"), 0))
    run("resumed_alone", *COMMON, "--resume")

    names = ["total_loss", "loss_class", "loss_bbox", "grad_norm"]
    rows = [MetricsFile(folder / "metrics.json").read()[:6] for folder in (one, tmp_path / "shared")]
    for alone, shared in zip(*rows, strict=True):
        assert [shared[name] for name in names] == pytest.approx([alone[name] for name in names], abs=1e-5)
    ends = {name: end(tmp_path / name) for name in ("one", "shared", "stopped", "stopped_alone", "resumed_alone")}
    shared = ends["shared"]
    assert [len(group["params"]) for group in shared["optimizer"]["param_groups"]] == [
        len(group["params"]) for group in ends["one"]["optimizer"]["param_groups"]
    ]
    assert farthest(shared, ends["one"]) < 1e-5
    assert farthest(ends["stopped_alone"], ends["one"]) < 1e-5, "one process began, two went on"
    assert farthest(ends["resumed_alone"], ends["one"]) < 1e-5, "two processes began, one went on"
    assert farthest(ends["stopped"], shared) == 0, "resuming is not exact"
    scores = [MetricsFile(tmp_path / name / "metrics.json").read()[-1]["bbox/AP"] for name in ("one", "shared")]
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)


def _gradients(rank: int, folder: Path, names: list[str]) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2, 1), mesh_dim_names=("data_parallel", "tensor_parallel"))
    for name in names:
        model, batch = detector(name)
        network = shard(LossNetwork(model), mesh)
        assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
        total, _, _ = network(Envelope(batch))
        total.backward()
        found = gathered({name: parameter.grad for name, parameter in model.named_parameters()}, keep=rank == 0)
        if rank == 0:
            torch.save((total.item(), found), folder / f"{name}.pth")
    distributed.destroy_process_group()


def detector(name: str) -> tuple[nn.Module, object]:
    torch.manual_seed(0)
    model = instantiate(tiny(LazyConfig.load(find_config(name)).model)).train()
    torch.manual_seed(1)
    return model, image_batch(2)


def test_a_detector_in_shards_has_the_gradients_of_one_process(tmp_path):
    names = ["dino_swin_toy"]
    multiprocessing.start_processes(_gradients, (tmp_path, names), nprocs=2, start_method="fork")
    for name in names:
        model, batch = detector(name)
        assert blocks_of_backbone(model)
        total = model(batch).total
        total.backward()
        shared, gradients = torch.load(tmp_path / f"{name}.pth")
        assert shared == pytest.approx(total.item(), rel=1e-5)
        for parameter_name, parameter in model.named_parameters():
            expected, found = parameter.grad, gradients[parameter_name]
            if expected is None:
                assert found is None or not found.any(), parameter_name
                continue
            scale = expected.abs().max().clamp(min=1e-3)
            assert ((found - expected).abs().max() / scale) < 1e-3, f"{name}: {parameter_name}"


def test_blocks_share_no_parameter_with_other_modules():
    model = nn.Module()
    model.backbone = nn.ModuleDict({"stem": nn.Linear(2, 2), "stage": nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))})
    model.backbone["stage"].append(nn.ReLU())
    model.head = nn.Linear(2, 2)
    assert blocks_of_backbone(model) == list(model.backbone["stage"])[:2]
    model.head.weight = model.backbone["stage"][0].weight
    assert blocks_of_backbone(model) == [model.backbone["stage"][1]]
    assert len(parameter_groups(model, base_lr=1.0, weight_decay=0.0, lr_factors={"backbone": 0.1})) == 2


@pytest.mark.parametrize(
    ("processes", "strategy", "kind"),
    [(1, "fsdp", "str"), (2, "ddp", "DDPStrategy"), (2, "fsdp", "ModelParallelStrategy")],
)
def test_the_strategy_follows_the_config_and_one_process_needs_none(processes, strategy, kind):
    train = get_config("common/train.py").train
    train.strategy = strategy
    assert type(choose_strategy(train, processes)).__name__ == kind


def test_fp16_with_shards_is_refused():
    train = get_config("common/train.py").train
    train.strategy, train.amp = "fsdp", {"enabled": True, "dtype": "fp16"}
    with pytest.raises(InputError, match=r"does not scale the losses .* expected train\.amp\.dtype=bf16"):
        choose_strategy(train, 2)
