"""What a person can get wrong before the first step: one line each, exit status 2, nothing written."""

import argparse
import os
from pathlib import Path

import pytest
import torch
from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

from crossstage.cli.train import argument_parser, main
from crossstage.config import LazyConfig, find_config, get_config
from crossstage.engine import setup
from crossstage.errors import InputError

WRONG = {
    "unknown key": ("train.max_itr=3", "train.max_itr=3: no such key"),
    "type": ("train.max_iter=many", "train.max_iter"),
    "zero iterations": ("train.max_iter=0", "train.max_iter=0: expected a whole number of at least 1"),
    "log period": ("train.log_period=0", "train.log_period=0: expected a whole number of at least 1"),
    "checkpoint period": ("train.checkpointer.period=0", "train.checkpointer.period=0: expected a whole number"),
    "accumulate": ("train.accumulate=0", "train.accumulate=0: expected"),
    "decay": ("train.model_ema.decay=1.5", "train.model_ema.decay=1.5: expected a number in [0, 1)"),
    "warm-up": ("train.model_ema.warmup_power=0", "train.model_ema.warmup_power=0.0: expected a number above 0"),
    "clipping": ("train.clip_grad.params.max_norm=0", "train.clip_grad.params.max_norm=0.0: expected a number above 0"),
    "precision": ("train.amp.dtype=fp8", "train.amp.dtype='fp8': expected bf16 or fp16"),
    "products": ("train.float32_matmul_precision=tf32", "precision='tf32': expected highest or high or medium"),
    "strategy": ("train.strategy=dp", "train.strategy='dp': expected ddp or fsdp"),
    "channels": ("train.channels_last=yes please", "channels_last='yes please': expected True, False, or None"),
    "compiled and sharded": ("train={compile: {enabled: True}, strategy: fsdp}", "expected one of them"),
    "fp16 on the CPU": ("train.amp={enabled: True, dtype: fp16}", "train.amp.dtype=fp16 needs a GPU"),
    "device": ("train.device=tpu", "train.device='tpu': expected cuda or cpu"),
    "weights": ("train.init_checkpoint=absent.pth", "absent.pth: no such file; expected a checkpoint"),
    "classes": ("model.num_classes=80", "has 8 classes; add model.num_classes=8"),
    "processes": ("--num-gpus=0", "--num-gpus 0: expected at least 1"),
    "machine": ("--machine-rank=1", "--machine-rank 1: expected 0 to --num-machines - 1"),
    "meeting point": ("--num-machines=2", "--dist-url auto: several machines need tcp://HOST:PORT"),
    "wandb": ("train.wandb.enabled=True", "needs the package wandb: pip install 'crossstage[wandb]'"),
    "a score without its task": ("train.best_metric=AP", "train.best_metric='AP': expected '' or task/score, such as"),
    "patience without evaluations": (
        "train={early_stopping: {patience: 3}, eval_period: 0}",
        "train.early_stopping.patience=3: would never stop a run without evaluations and a score; set train.eval_per",
    ),
    "patience without a score": (
        "train={early_stopping: {patience: 3}, best_metric: ''}",
        "train.early_stopping.patience=3: would never stop a run without evaluations and a score; set train.best_met",
    ),
    "dataset": ("dataloader.root=absent", "absent/annotations/instances_train2017.json"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_one_line_and_status_2(name, arguments, tmp_path, capsys):
    argument, expected = WRONG[name]
    assert main(arguments("run", argument)) == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert error.startswith("error: ") and expected in error
    assert not (tmp_path / "run").exists() or list((tmp_path / "run").iterdir()) == []


def test_a_mistake_leaves_an_earlier_run_where_it_is(run, arguments):
    folder = run("run", "train.max_iter=1")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert main(arguments("run", "model.num_classes=80")) == 2
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_that_cannot_be_written_is_named(arguments, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(arguments("file/run")) == 2
    assert f"train.output_dir={tmp_path}/file/run: not writable (Not a directory)" in capsys.readouterr().err


def test_config_files_that_are_missing_or_broken_are_named(tmp_path, capsys):
    broken = tmp_path / "broken.py"
    broken.write_text("model = (\n")
    incomplete = tmp_path / "incomplete.py"
    incomplete.write_text("model = dict()\ntrain = dict()\n")
    expectations = {
        tmp_path / "absent.py": "no such config",
        broken: "broken.py:1: SyntaxError",
        incomplete: "does not define dataloader",
    }
    for file, expected in expectations.items():
        assert main(["--config-file", str(file)]) == 2
        (error,) = capsys.readouterr().err.strip().splitlines()
        assert str(file) in error and expected in error


def test_the_home_folder_is_meant_by_a_tilde(tmp_path, monkeypatch):
    """No shell expands it in `train.output_dir=~/run`, because of the dot."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert setup.load_config("dino_toy", ["train.output_dir=~/run"]).train.output_dir == str(tmp_path / "run")


def test_a_missing_train_key_is_named():
    train = get_config("common/train.py").train
    setup.check_values(train)
    del train.accumulate
    with pytest.raises(InputError, match=r"train\.accumulate is missing; begin with get_config"):
        setup.check_values(train)


def test_a_run_that_is_older_than_a_train_key_gets_its_default(tmp_path):
    cfg = LazyConfig.load(find_config("dino_toy"))
    cfg.train.max_iter = 7
    del cfg.train.strategy, cfg.train.early_stopping, cfg.train.checkpointer.epochs
    LazyConfig.save(cfg, tmp_path / "config.yaml")
    train = setup.load_config(str(tmp_path / "config.yaml"), ["train.strategy=fsdp"]).train
    assert (train.max_iter, train.strategy, train.early_stopping.patience, train.checkpointer.epochs) == (
        7,
        "fsdp",
        0,
        0,
    )


def args(*given: str) -> argparse.Namespace:
    return argument_parser().parse_intermixed_args(["--config-file", "f", *given])


@pytest.mark.parametrize(
    ("gpus", "given", "expected"),
    [
        (0, ["--num-gpus=1"], "cpu"),
        (0, ["--num-gpus=1", "train.device=cuda"], "PyTorch finds no GPU here; expected train.device=cpu"),
        (0, ["--num-gpus=99999"], "--num-gpus 99999: this machine has no GPU and"),
        (0, ["--num-gpus=99999", "train.device=cpu"], "cpu"),
        (2, ["--num-gpus=2"], "cuda"),
        (2, ["--num-gpus=3"], "--num-gpus 3: PyTorch finds 2 here; expected at most 2"),
        (2, ["--num-gpus=3", "train.device=cpu"], "cpu"),
    ],
)
def test_devices(gpus, given, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    train = get_config("common/train.py").train
    train.device = "cpu" if "train.device=cpu" in given else "cuda"
    if expected in ("cpu", "cuda"):
        device, notice = setup.choose_device(args(*given), train)
        assert device == expected
        assert bool(notice) == (gpus == 0 and "train.device=cpu" not in given)
    else:
        with pytest.raises(InputError) as caught:
            setup.choose_device(args(*given), train)
        assert expected in str(caught.value)


def test_overrides_may_stand_anywhere():
    parsed = args("a.b=1", "--num-gpus", "2", "c=3", "--resume", "d=4")
    assert parsed.opts == ["a.b=1", "c=3", "d=4"] and parsed.num_gpus == 2 and parsed.resume


TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "1", "RANK": "5", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8",
    "GROUP_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1",
}  # fmt: skip
SLURM = {
    "SLURM_NTASKS": "16", "SLURM_NTASKS_PER_NODE": "8", "SLURM_NNODES": "2", "SLURM_PROCID": "9", "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1", "SLURM_NODELIST": "a[1-2]", "SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "1",
}  # fmt: skip


@pytest.mark.parametrize(
    ("variables", "kind", "processes"),
    [(TORCHRUN, TorchElasticEnvironment, (4, 2)), (SLURM, SLURMEnvironment, (8, 2))],
    ids=["torchrun", "slurm"],
)
def test_torchrun_and_slurm_decide_over_the_processes(variables, kind, processes, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    environment, per_machine, machines = setup.choose_environment(args("--num-gpus", "3"))
    assert isinstance(environment, kind) and (per_machine, machines) == processes
    assert not setup.is_first_process() and not setup.is_started_by_fabric()


def test_a_slurm_job_of_one_task_starts_its_processes_itself(monkeypatch):
    for name, value in {**SLURM, "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}.items():
        monkeypatch.setenv(name, value)
    assert setup.choose_environment(args("--num-gpus", "3"))[1:] == (3, 1)


def test_several_machines_meet_at_the_given_address(monkeypatch):
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK"):
        monkeypatch.setenv(name, "")
    given = ["--num-gpus", "8", "--num-machines", "2", "--machine-rank", "1", "--dist-url", "tcp://10.0.0.1:29500"]
    environment, per_machine, machines = setup.choose_environment(args(*given))
    assert (per_machine, machines, environment.node_rank()) == (8, 2, 1)
    assert (environment.main_address, environment.main_port) == ("10.0.0.1", 29500)
    assert Path(os.environ["NODE_RANK"]) == Path("1")
