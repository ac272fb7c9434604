"""Detectors of transformers with `with_csla` in real use: its Trainer, files, copies, threads, processes."""

import copy
import gc
import json
import os
import pickle
import re
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from crossstage.data.toy.generate import ToySettings, write_toy
from csla.transformers import CrossStageLoss, with_csla
from tests import tiny_hugging_face as tiny
from tests.tiny_hugging_face import NAMES, Call

ROOT = Path(__file__).resolve().parents[2]
GROUPED = "LwDetr" if "LwDetr" in NAMES else "DabDetr"  # transformers has LW-DETR since version 5
OWN_STAGE = {"look_back": 0, "look_ahead": 0, "iou_threshold": 0.0}
pytestmark = pytest.mark.filterwarnings("ignore:.*before transformers 5.18")


@pytest.fixture(autouse=True)
def no_package_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers would take the folder datasets/ of a checkout, which the quickstart writes, for a package."""
    monkeypatch.setattr("transformers.trainer.is_datasets_available", lambda: False)


def loss_of(model: Any, *counts: int, seed: int = 0) -> Tensor:
    """The loss of a step; the seed decides objects and noise."""
    torch.manual_seed(seed)
    return model(pixel_values=tiny.pixels(len(counts)), labels=tiny.annotations(*counts)).loss


@pytest.mark.parametrize(("name", "options"), [("RTDetr", {}), (GROUPED, {"bf16": True}), ("ConditionalDetr", {})])
def test_the_trainer_trains_evaluates_and_saves_it(name: str, options: dict[str, Any], tmp_path: Path):
    from transformers import Trainer, TrainingArguments

    def collate(images: list[dict[str, Any]]) -> dict[str, Any]:
        return {"pixel_values": torch.stack([one["pixels"] for one in images]), "labels": [one["of"] for one in images]}

    data = [{"pixels": image, "of": of} for image, of in zip(tiny.pixels(4), tiny.annotations(2, 0, 3, 1), strict=True)]
    model = with_csla(tiny.tiny(name))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    settings = {"output_dir": str(tmp_path), "max_steps": 3, "per_device_train_batch_size": 2, "use_cpu": True}
    settings |= {"remove_unused_columns": False, "report_to": [], "save_steps": 3, "logging_steps": 1}
    arguments = TrainingArguments(**settings, disable_tqdm=True, prediction_loss_only=True, **options)
    trainer = Trainer(model=model, args=arguments, train_dataset=data, eval_dataset=data, data_collator=collate)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 3
    assert all(0 < loss < 1e3 for loss in losses)
    assert any(not value.equal(before[key]) for key, value in model.state_dict().items())
    assert (tmp_path / "checkpoint-3/model.safetensors").exists()
    if name != "LwDetr":  # transformers evaluates it with 13 groups of one query
        assert 0 < trainer.evaluate()["eval_loss"] < 1e3


def test_the_script_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "csla/README.md").read_text(), flags=re.DOTALL)
    (script,) = [block for block in blocks if "class CocoImages" in block]
    assert "max_steps=200" in script
    monkeypatch.chdir(tmp_path)
    write_toy("toy", ToySettings(train=4, val=2))
    names: dict[str, Any] = {"__name__": "script"}
    exec(compile(script.replace("max_steps=200", "max_steps=2, use_cpu=True"), "csla/README.md", "exec"), names)
    assert names["trainer"].state.global_step == 2
    assert isinstance(names["model"].loss_function, CrossStageLoss)
    assert Path("output/final/config.json").exists()


def test_saved_models_carry_no_trace_of_it(tmp_path: Path):
    model = with_csla(tiny.tiny("RTDetr"))
    with_it = loss_of(model, 3, 0)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).train()
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(value.equal(model.state_dict()[key]) for key, value in loaded.state_dict().items())
    assert not any("csla" in path.read_text().lower() for path in tmp_path.glob("*.json"))
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "rt_detr"
    assert not loss_of(loaded, 3, 0).equal(with_it)
    assert loss_of(with_csla(loaded), 3, 0).equal(with_it)


def test_a_copy_and_a_pickle_after_a_step_give_the_same_losses():
    model = with_csla(tiny.tiny("RTDetr"))
    loss_of(model, 3, 0).backward()
    expected = loss_of(model, 3, 0)
    copied = copy.deepcopy(model)
    assert loss_of(copied, 3, 0).equal(expected)
    copied.loss_function = pickle.loads(pickle.dumps(model.loss_function))
    assert loss_of(copied, 3, 0).equal(expected)


def test_nothing_of_a_step_outlives_it():
    """Without a collection of garbage: a cycle would keep the graphs of many steps on a GPU."""
    call = tiny.call_of("RTDetr", 3, 0)
    graph = [value.clone() for value in (call.arguments["logits"], call.arguments["pred_boxes"])]
    alive = [weakref.ref(value) for value in graph]
    arguments = {**call.arguments, "logits": graph[0], "pred_boxes": graph[1]}
    gc.disable()
    try:
        result = CrossStageLoss(call.plain, {})(**arguments)
        del arguments, graph, result
        assert [one() for one in alive] == [None, None]
    finally:
        gc.enable()


def test_a_model_with_it_and_one_without_run_side_by_side_in_threads():
    """As in DataParallel. A criterion that is exchanged in transformers' module would be seen by both."""
    calls = [tiny.call_of("RTDetr", 3, 0) for _ in range(2)]
    functions = [calls[0].plain, CrossStageLoss(calls[1].plain, {})]
    expected = [calls[0].losses(functions[0])[0], calls[1].losses(functions[1])[0]]
    assert not expected[0].equal(expected[1])

    def repeat(number: int) -> list[bool]:
        return [calls[number].losses(functions[number])[0].equal(expected[number]) for _ in range(20)]

    with ThreadPoolExecutor(2) as pool:
        assert all(all(found) for found in pool.map(repeat, range(2)))


class AroundTheLoss(nn.Module):
    """What dynamo sees of a model around its loss function."""

    def __init__(self, call: Call, function: Any) -> None:
        super().__init__()
        self.arguments, self.function = call.arguments, function

    def forward(self, factor: Tensor) -> Tensor:
        logits = self.arguments["logits"] * factor
        return self.function(**{**self.arguments, "logits": logits})[0] * factor


def test_compiled_around_it_the_loss_is_the_same():
    call = tiny.call_of("RTDetr", 3, 0)
    module = AroundTheLoss(call, CrossStageLoss(call.plain, {}))
    factor = torch.tensor(1.5, requires_grad=True)
    compiled = torch.compile(module, backend="eager")
    for _ in range(2):
        torch.testing.assert_close(compiled(factor), module(factor), rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_under_autocast_the_losses_of_the_own_stage_are_the_plain_ones(name: str):
    with torch.autocast("cpu", torch.bfloat16):
        call = tiny.call_of(name, 3, 0)
        assert call.arguments["logits"].dtype == torch.bfloat16 or name in {"DFine", "Deimv2"}
        plain, ours = call.losses()[1], call.losses(CrossStageLoss(call.plain, OWN_STAGE))[1]
    for term in plain:
        torch.testing.assert_close(ours[term].float(), plain[term].float(), rtol=2e-2, atol=1e-3, msg=term)


def _loss_of_a_share(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model = tiny.tiny(GROUPED)
    found = []
    for change in (lambda model: model, lambda model: with_csla(model, **OWN_STAGE), with_csla):
        wrapped = DistributedDataParallel(change(model), find_unused_parameters=True)
        loss = loss_of(wrapped, 3, 0, seed=rank)
        wrapped.zero_grad()
        loss.backward()
        norm = torch.stack([one.grad.norm() for one in model.parameters() if one.grad is not None]).norm()
        found.append([loss.item(), norm.item()])
    (folder / f"{rank}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()


def test_two_processes_train_together(tmp_path: Path):
    """The normaliser of LW-DETR is the mean over the processes; gradients are equal in both."""
    multiprocessing.start_processes(_loss_of_a_share, (tmp_path,), nprocs=2, start_method="fork")
    first, second = (torch.tensor(json.loads((tmp_path / f"{rank}.json").read_text())) for rank in range(2))
    for share in (first, second):
        plain, own, with_it = share
        torch.testing.assert_close(own, plain, rtol=1e-5, atol=0)
        assert not with_it.allclose(plain, rtol=1e-4)
    torch.testing.assert_close(first[:, 1], second[:, 1], rtol=1e-5, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("folder", sorted(filter(None, os.environ.get("TRANSFORMERS_FOLDERS", "").split(os.pathsep))))
def test_the_other_versions_pass_the_same_tests(folder: str):
    """TRANSFORMERS_FOLDERS: folders of `pip install --target FOLDER transformers==VERSION`, separated by colons."""
    environment = {**os.environ, "PYTHONPATH": folder, "OMP_NUM_THREADS": "1"}
    tests = ["tests/csla/test_csla_transformers.py", "tests/csla/test_csla_transformers_in_use.py"]
    command = [sys.executable, "-m", "pytest", "-m", "not slow", *tests]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
