"""Errors of the machine: which of them become one line with a remedy, and what log.txt and the exit status say."""

import errno
from pathlib import Path

import pytest
import torch

from crossstage.checkpoints.save import Checkpointer
from crossstage.cli.train import main
from crossstage.engine.metrics import MetricsFile
from crossstage.engine.network import LossNetwork
from crossstage.engine.output import held
from crossstage.engine.remedies import as_input_error
from crossstage.errors import InputError
from crossstage.files import write_text


def of_torch() -> Exception:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)
    return caught.value


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "f"), "f: cannot be written (No space left on device); make"),
        (OSError(errno.EROFS, "Read-only file system"), "out: cannot be written (Read-only file system); make it writ"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory ([Errno 12] Cannot allocate memory); use"),
        (MemoryError(), "out of memory (MemoryError); use less: a smaller dataloader.train.total_batch_size"),
        (of_torch(), "DefaultCPUAllocator"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory (CUDA out of memory. T"),
        (RuntimeError("Caught MemoryError in DataLoader worker process 0. std::bad_alloc"), "out of memory (Caught"),
    ],
)
def test_an_error_of_the_machine_names_its_remedy(error, message):
    told = as_input_error(error, Path("out"))
    assert isinstance(told, InputError) and message in str(told) and "\n" not in str(told)


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes differ"), OSError(errno.ENOENT, "No such file"), ValueError("1")]
)
def test_other_errors_keep_their_traceback(error):
    assert as_input_error(error, Path("out")) is None


def test_cleaning_up_in_a_read_only_folder_does_not_hide_the_error(tmp_path, monkeypatch):
    """There, removing even a file that does not exist fails."""

    def refuse(path: Path, **_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(FileNotFoundError, match=r"/results\.json'"):
        write_text(tmp_path / "lost" / "results.json", "")
    with pytest.raises(InputError, match="the error itself"), held(tmp_path):
        raise InputError("the error itself")


@pytest.mark.parametrize(("number", "remedy"), [(errno.ENOSPC, "make space"), (errno.EROFS, "make it writable")])
def test_every_writer_of_a_run_names_the_remedy_of_its_error(tmp_path, monkeypatch, number, remedy):
    def refuse(path: Path, *_: object, **__: object) -> None:
        raise OSError(number, "refused", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    message = rf"cannot be written \(refused\); {remedy}, then continue with --resume"
    with pytest.raises(InputError, match=rf"metrics\.json: {message}"):
        MetricsFile(tmp_path / "metrics.json").append(0, {"total_loss": 1.0})
    with pytest.raises(InputError, match=rf"model_0000001\.pth: {message} \(last checkpoint: none yet\)"):
        Checkpointer(tmp_path).save("model_0000001", {})


def test_a_run_without_memory_is_one_line_and_its_log_has_the_traceback(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(LossNetwork, "forward", lambda *_: torch.empty(2**55))
    assert main(arguments("run", "train.max_iter=2")) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: out of memory (") and "dataloader.image_size" in said
    log = (tmp_path / "run/log.txt").read_text()
    assert "the run ended: out of memory" in log and "Traceback" in log
