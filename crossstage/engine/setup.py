"""Prepares a run from its parsed arguments: config, seed, and processes on devices (Lightning Fabric)."""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment
from lightning_fabric.strategies import DDPStrategy
from omegaconf import DictConfig, OmegaConf

from crossstage.config import LazyConfig, find_config, get_config
from crossstage.engine.acceleration import MATMUL_PRECISIONS
from crossstage.engine.length import EPOCHS, prefer_given_iterations
from crossstage.engine.sharding import fsdp_strategy
from crossstage.errors import InputError

ROOTS = ("model", "dataloader", "optimizer", "lr_multiplier", "train")


def load_config(file: str, overrides: Sequence[str]) -> DictConfig:
    """Load a config, apply overrides and train.fast_dev_run, and check it.

    A run's config.yaml may be older than some keys of the train node; it gets their defaults.

    Args:
        file: a path, or the short name of one of our configs.
        overrides: such as "train.max_iter=1000".

    Returns:
        The config.

    Raises:
        InputError: if one of `ROOTS` is missing, or a value is wrong.
    """
    path = find_config(file)
    cfg = LazyConfig.load(path)
    if path.suffix == ".yaml" and "train" in cfg:
        cfg.train = OmegaConf.merge(get_config("common/train.py").train, cfg.train)
    LazyConfig.apply_overrides(cfg, list(overrides))
    if missing := [name for name in ROOTS if name not in cfg]:
        raise InputError(f"{file}: does not define {', '.join(missing)}; a config defines {', '.join(ROOTS)}")
    if cfg.train.get("fast_dev_run", {}).get("enabled"):
        cfg.train.max_iter, cfg.train.eval_period, cfg.train.log_period = 20, 10, 1
        cfg.train.max_epochs, cfg.train.eval_epochs = 0, 0
    check_values(cfg.train)
    cfg.train.output_dir = os.path.expanduser(cfg.train.output_dir)  # shells do not after a dot and "="
    prefer_given_iterations(cfg.train, overrides)
    return cfg


def settle_threads(train: DictConfig) -> str:
    """Set torch's number of threads on the CPU; returns it in words."""
    if train.cpu_threads:
        torch.set_num_threads(train.cpu_threads)
    count = torch.get_num_threads()
    where = "train.cpu_threads" if train.cpu_threads else "its default; train.cpu_threads sets it"
    return f"{count} thread{'s' if count > 1 else ''} ({where})"


PRECISIONS = {"bf16": "bf16-mixed", "fp16": "16-mixed"}
WHOLE_NUMBERS = {
    "max_iter": 1,
    "accumulate": 1,
    "eval_period": 0,
    "log_period": 1,
    "seed": -1,
    "checkpointer.period": 1,
    "checkpointer.max_to_keep": 0,
    "early_stopping.patience": 0,
    "max_skipped": 0,
    "cpu_threads": 0,
}
CHOICES = {"strategy": ("ddp", "fsdp"), "nonfinite": ("stop", "skip"), "bad_batch": ("stop", "skip")}
ABOVE_ZERO = ("clip_grad.params.max_norm", "model_ema.warmup_gamma", "model_ema.warmup_power")
SWITCHES = (
    "amp.enabled",
    "ddp.broadcast_buffers",
    "ddp.find_unused_parameters",
    "clip_grad.enabled",
    "query_metrics.enabled",
    "model_ema.enabled",
    "model_ema.use_warmup",
    "model_ema.use_ema_weights_for_eval_only",
    "deterministic",
    "wandb.enabled",
    "compile.enabled",
)
OPEN_SWITCHES = ("channels_last", "cudnn_benchmark")  # None: chosen from the device
TEXTS = ("output_dir", "init_checkpoint", "device", "best_metric", "compile.backend")


def check_values(train: DictConfig) -> None:
    """Raise InputError for a value of the train node that is missing or impossible."""
    for key, least in WHOLE_NUMBERS.items():
        value = _value(train, key)
        fits = isinstance(value, int) and not isinstance(value, bool) and value >= least
        _require(fits, key, value, f"a whole number of at least {least}")
    for key in EPOCHS:
        value = _value(train, key)
        fits = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
        _require(fits, key, value, "a number of epochs, or 0 if the iterations count")
    for key, choices in CHOICES.items():
        _require(_value(train, key) in choices, key, _value(train, key), " or ".join(choices))
    for key in SWITCHES:
        _require(isinstance(_value(train, key), bool), key, _value(train, key), "True or False")
    for key in OPEN_SWITCHES:
        _require(_value(train, key) in (None, True, False), key, _value(train, key), "True, False, or None to choose")
    for key in TEXTS:
        _require(isinstance(_value(train, key), str), key, _value(train, key), "text")
    _require(_value(train, "output_dir") != "", "output_dir", "", "the path of a folder")
    _check_best(train)
    if train.wandb.enabled and importlib.util.find_spec("wandb") is None:
        raise InputError("train.wandb.enabled=True needs the package wandb: pip install 'crossstage[wandb]'")
    dtype = _value(train, "amp.dtype")
    _require(dtype in PRECISIONS, "amp.dtype", dtype, " or ".join(PRECISIONS))
    matmul = _value(train, "float32_matmul_precision")
    _require(matmul in MATMUL_PRECISIONS, "float32_matmul_precision", matmul, " or ".join(MATMUL_PRECISIONS))
    decay = _value(train, "model_ema.decay")
    _require(isinstance(decay, float | int) and 0 <= decay < 1, "model_ema.decay", decay, "a number in [0, 1)")
    for key in ABOVE_ZERO:
        value = _value(train, key)
        _require(isinstance(value, float | int) and value > 0, key, value, "a number above 0")


def _check_best(train: DictConfig) -> None:
    """Raise InputError if train.best_metric cannot be a score, or if early stopping could never happen."""
    metric, patience = train.best_metric, train.early_stopping.patience
    _require(not metric or "/" in metric, "best_metric", metric, "'' or task/score, such as bbox/AP")
    evaluates = train.eval_period > 0 or train.eval_epochs > 0
    if patience and not (metric and evaluates):
        lacks = "train.best_metric" if evaluates else "train.eval_period or train.eval_epochs"
        raise InputError(
            f"train.early_stopping.patience={patience}: would never stop a run without evaluations and a score; set "
            f"{lacks}"
        )


def _value(train: DictConfig, key: str) -> Any:
    """The value at a dotted key."""
    node: Any = train
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            raise InputError(
                f"train.{key} is missing; begin with get_config('common/train.py').train and change values"
            )
        node = node[part]
    return node


def _require(fits: bool, key: str, value: Any, expected: str) -> None:
    if not fits:
        raise InputError(f"train.{key}={value!r}: expected {expected}")


def choose_device(args: argparse.Namespace, train: DictConfig) -> tuple[str, str]:
    """Choose the device.

    Args:
        args: the command line.
        train: the config's train node.

    Returns:
        "cuda" or "cpu", and a line for the log, or "".

    Raises:
        InputError: if the run needs a device, or a number of devices, that this machine does not have.
    """
    device, _, index = train.device.partition(":")
    if device not in ("cuda", "cpu") or index:
        raise InputError(
            f"train.device={train.device!r}: expected cuda or cpu (CUDA_VISIBLE_DEVICES chooses among several GPUs)"
        )
    if args.num_gpus < 1:
        raise InputError(f"--num-gpus {args.num_gpus}: expected at least 1, the number of processes per machine")
    if device == "cpu":
        return "cpu", ""
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    asked = any(override.split("=")[0].lstrip("+") == "train.device" for override in args.opts)
    if found and args.num_gpus > found:
        raise InputError(f"--num-gpus {args.num_gpus}: PyTorch finds {found} here; expected at most {found}")
    if found:
        return "cuda", ""
    if asked:
        raise InputError(
            f"train.device=cuda, --num-gpus {args.num_gpus}: PyTorch finds no GPU here; expected train.device=cpu"
        )
    cores = os.cpu_count() or 1
    if args.num_gpus > cores:
        raise InputError(
            f"--num-gpus {args.num_gpus}: this machine has no GPU and {cores} CPU cores; expected at most {cores} "
            f"(train.device=cpu runs {args.num_gpus} processes all the same)"
        )
    return "cpu", "no GPU found: running on the CPU"


def build_fabric(args: argparse.Namespace, train: DictConfig, device: str) -> Fabric:
    """Describe devices, precision and processes to Lightning Fabric; `launch()` then starts the processes.

    torchrun or srun determine the number of processes; without them the arguments do.

    Args:
        args: the command line.
        train: the config's train node.
        device: "cuda" or "cpu".

    Returns:
        The Fabric.

    Raises:
        InputError: for an impossible combination of arguments.
    """
    environment, per_machine, machines = choose_environment(args)
    precision: Any = PRECISIONS[train.amp.dtype] if train.amp.enabled else "32-true"
    if device == "cpu" and precision == "16-mixed":
        raise InputError("train.amp.dtype=fp16 needs a GPU; expected bf16 on the CPU, or train.amp.enabled=False")
    return Fabric(
        accelerator=device,
        devices=per_machine,
        num_nodes=machines,
        precision=precision,
        strategy=choose_strategy(train, per_machine * machines),
        plugins=[environment],
    )


def choose_strategy(train: DictConfig, processes: int) -> Any:
    """How the processes share the work: Fabric's strategy for train.strategy, which one process does not need.

    Raises InputError for fp16 with fsdp.
    """
    if processes == 1:
        return "auto"
    if train.strategy == "ddp":
        return DDPStrategy(
            broadcast_buffers=train.ddp.broadcast_buffers, find_unused_parameters=train.ddp.find_unused_parameters
        )
    if train.amp.enabled and train.amp.dtype == "fp16":
        raise InputError(
            "train.strategy=fsdp with train.amp.dtype=fp16: Lightning Fabric does not scale the losses of sharded "
            "models; expected train.amp.dtype=bf16, or train.strategy=ddp"
        )
    return fsdp_strategy(processes)


def choose_environment(args: argparse.Namespace) -> tuple[Any, int, int]:
    """The cluster environment, processes per machine, machines."""
    if TorchElasticEnvironment.detect():
        elastic = TorchElasticEnvironment()
        per_machine = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        return elastic, per_machine, elastic.world_size() // per_machine
    # In a SLURM job of one task, or a shell inside an allocation, we start the processes ourselves.
    if int(os.environ.get("SLURM_NTASKS", "1")) > 1 and SLURMEnvironment.detect():
        slurm = SLURMEnvironment()
        machines = int(os.environ.get("SLURM_NNODES", "1"))
        return slurm, slurm.world_size() // machines, machines
    if not 0 <= args.machine_rank < args.num_machines:
        raise InputError(f"--machine-rank {args.machine_rank}: expected 0 to --num-machines - 1")
    if args.num_machines > 1:
        _set_meeting_point(args.dist_url, args.machine_rank)
    return LightningEnvironment(), args.num_gpus, args.num_machines


def _set_meeting_point(dist_url: str, machine_rank: int) -> None:
    """Tell Fabric, through the environment as it expects, where the machines meet."""
    host, _, port = dist_url.removeprefix("tcp://").rpartition(":")
    if not (dist_url.startswith("tcp://") and host and port.isdigit()):
        raise InputError(f"--dist-url {dist_url}: several machines need tcp://HOST:PORT of machine 0, the same on each")
    os.environ.update(MASTER_ADDR=host, MASTER_PORT=port, NODE_RANK=str(machine_rank))


def draw_seed() -> int:
    """A seed from the operating system, in [0, 2**31)."""
    return secrets.randbelow(2**31)


def is_first_process() -> bool:
    """Whether this process is the one that prints; also correct before the process group exists."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK"))


def is_started_by_fabric() -> bool:
    """Whether Lightning started this process, rather than a person, torchrun or srun."""
    external = TorchElasticEnvironment.detect() or int(os.environ.get("SLURM_NTASKS", "1")) > 1
    return not external and os.environ.get("LOCAL_RANK", "0") != "0"
