"""A run that was stopped, by whatever, ends exactly as one that was not."""

import json
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from crossstage.checkpoints.load import read_checkpoint
from crossstage.checkpoints.save import Checkpointer
from crossstage.cli.train import main
from crossstage.config import LazyConfig
from crossstage.engine.metrics import MetricsFile
from crossstage.errors import InputError

TIMES = {"time", "data_time", "rank_data_time", "eta_seconds"}  # what no two runs share


@pytest.fixture(scope="module")
def uninterrupted(toy_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    config = Path(__file__).with_name("engine_config.py")
    overrides = [f"dataloader.root={toy_root}", f"train.output_dir={folder}", "train.device=cpu"]
    assert main(["--config-file", str(config), *overrides]) == 0
    return folder


def differences(one, other, path: str = "") -> list[str]:
    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one, other) else [path]
    if isinstance(one, dict) and one.keys() == other.keys():
        return [found for key in one for found in differences(one[key], other[key], f"{path}/{key}")]
    if isinstance(one, list) and len(one) == len(other):
        return [found for i in range(len(one)) for found in differences(one[i], other[i], f"{path}/{i}")]
    return [] if one == other else [path]


def assert_same_end(folder: Path, other: Path) -> None:
    found = differences(*(read_checkpoint(run / "model_final.pth") for run in (folder, other)))
    assert [path for path in found if path.split("/")[1] not in ("history", "config")] == []
    assert [path for path in found if path.startswith("/history") and path.split("/")[2] not in TIMES] == []
    rows, others = (MetricsFile(run / "metrics.json").read() for run in (folder, other))
    assert [row["iteration"] for row in rows] == [row["iteration"] for row in others]
    for row, its in zip(rows, others, strict=True):
        values = [{key: repr(value) for key, value in r.items() if key not in TIMES} for r in (row, its)]
        assert values[0] == values[1]
    assert (folder / "results.json").read_text() == (other / "results.json").read_text()


def test_killed_at_a_random_step_and_resumed_is_bit_equal(run_alone, run, tmp_path, uninterrupted):
    step = random.SystemRandom().randrange(12)
    killed = run_alone("killed", "model.accident=kill", f"model.accident_at={step}")
    assert killed.returncode == -9, killed.stderr
    assert not (tmp_path / "killed/model_final.pth").exists()
    print(f"killed in iteration {step}")  # shown if this fails
    (tmp_path / "killed/.model_0000003.pth.17.tmp").write_text("what a process that was killed while saving leaves")
    assert_same_end(run("killed", "--resume"), uninterrupted)
    assert not list((tmp_path / "killed").glob(".*.tmp"))


@pytest.fixture
def heeded_interrupt() -> Iterator[None]:
    """Ctrl-C has its usual handler, although a suite in the background of a shell ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeded_interrupt")
@pytest.mark.parametrize(("name", "step", "status"), [("SIGINT", 0, 130), ("SIGTERM", 8, 143)])
def test_a_signal_finishes_the_step_saves_and_says_how_to_resume(
    name, step, status, run, arguments, tmp_path, uninterrupted, capsys
):
    stopped = main(arguments("stopped", f"model.accident={name}", f"model.accident_at={step}"))
    assert stopped == status
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message == f"stopped after iteration {step}, which is saved; continue with the same command and --resume"
    assert (tmp_path / "stopped/last_checkpoint").read_text() == f"model_{step:07d}.pth"
    assert_same_end(run("stopped", "--resume"), uninterrupted)


def test_resuming_a_finished_run_changes_nothing(run, uninterrupted, toy_root):
    before = (uninterrupted / "model_final.pth").read_bytes(), (uninterrupted / "metrics.json").read_text()
    config = Path(__file__).with_name("engine_config.py")
    overrides = [f"dataloader.root={toy_root}", f"train.output_dir={uninterrupted}", "train.device=cpu"]
    assert main(["--config-file", str(config), "--resume", *overrides]) == 0
    after = (uninterrupted / "model_final.pth").read_bytes(), (uninterrupted / "metrics.json").read_text()
    assert before == after


def test_other_periods_of_evaluation_and_log_change_no_weight(run, uninterrupted):
    often = read_checkpoint(run("often", "train.eval_period=4", "train.log_period=7") / "model_final.pth")
    assert differences(often["model"], read_checkpoint(uninterrupted / "model_final.pth")["model"]) == []


def test_nothing_to_resume_starts_anew_and_says_so(run, capsys):
    run("new", "--resume", "train.max_iter=2")
    assert "new has no checkpoint to resume from, starting from the beginning" in capsys.readouterr().out


def test_a_second_run_sets_the_first_aside(run, capsys):
    folder = run("twice", "train.max_iter=2", "train.seed=1")
    (folder / "pictures").mkdir()
    first = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    # The weights to start from may lie in that very folder.
    run("twice", "train.max_iter=2", "train.seed=2", f"train.init_checkpoint={folder}/model_final.pth")
    (aside,) = folder.glob("previous_*")
    assert f"held an earlier run; its files are now in {aside}" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == first
    assert len((folder / "metrics.json").read_text().splitlines()) == 2
    assert (folder / "pictures").is_dir()


def test_a_damaged_checkpoint_is_named_with_the_one_before(run, arguments, capsys):
    folder = run("damaged", "train.checkpointer.period=1", "train.max_iter=3")
    (folder / "last_checkpoint").write_text("model_0000002.pth")
    damaged = folder / "model_0000002.pth"
    damaged.write_bytes(damaged.read_bytes()[:5000])
    assert main(arguments("damaged", "--resume")) == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert error.startswith(f"error: {damaged}: truncated, damaged or not a file of weights")
    assert "the previous one is model_0000001.pth" in error
    damaged.unlink()
    assert main(arguments("damaged", "--resume")) == 2
    assert "names model_0000002.pth, which does not exist; the previous one" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", bytes(18), b"\xff\xfe"], ids=["empty", "zeros", "no text"])
def test_a_pointer_that_a_loss_of_power_has_damaged_is_told_with_the_checkpoint_that_is_there(tmp_path, content):
    (tmp_path / "model_0000001.pth").write_bytes(b"")
    (tmp_path / "last_checkpoint").write_bytes(content)
    with pytest.raises(
        InputError, match=r"last_checkpoint names '.*', which does not exist; .* is model_0000001\.pth: w"
    ):
        Checkpointer(tmp_path).latest()


def test_resuming_with_other_classes_or_another_batch_size_is_an_error(run, arguments, toy_root, capsys, tmp_path):
    run("mine", "train.max_iter=2")
    assert main(arguments("mine", "--resume", "dataloader.train.total_batch_size=8")) == 2
    assert "total_batch_size=4, now it is 8" in capsys.readouterr().err
    assert main(arguments("mine", "--resume", "train.max_iter=1")) == 2
    assert "train.max_iter=1: " in (error := capsys.readouterr().err) and "already done 2 iterations" in error
    for split in ("train", "val"):
        file = f"annotations/instances_{split}2017.json"
        contents = json.loads((toy_root / file).read_text())
        contents["categories"][0]["name"] = "disc"
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / file).write_text(json.dumps(contents))
        (tmp_path / f"{split}2017").symlink_to(toy_root / f"{split}2017")
    assert main(arguments("mine", "--resume", f"dataloader.root={tmp_path}")) == 2
    assert "objects of classes that training does not have: 'disc'" in capsys.readouterr().err


def test_config_yaml_loads_back_and_holds_the_drawn_seed(run):
    folder = run("seeded", "train.seed=-1", "train.max_iter=2")
    stored = LazyConfig.load(folder / "config.yaml")
    seed = stored.train.seed
    assert 0 <= seed < 2**31 and stored.dataloader.train.seed == seed
    assert stored.optimizer.params.base_lr == 0.01
    again = run("again", f"train.seed={seed}", "train.max_iter=2")
    weights = [read_checkpoint(run / "model_final.pth")["model"] for run in (folder, again)]
    assert differences(*weights) == []
    resumed = run("seeded", "train.seed=-1", "train.max_iter=2", "--resume")
    assert LazyConfig.load(resumed / "config.yaml").train.seed == seed
