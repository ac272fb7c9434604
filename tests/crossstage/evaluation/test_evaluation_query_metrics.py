"""Counting which queries work during an evaluation: the same detections, and the counts of a pass of its own."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from crossstage.cli.train import main
from crossstage.config import instantiate
from crossstage.data.toy.generate import main as write_toy
from crossstage.errors import InputError
from crossstage.evaluation.query_metrics import CountingDetector, QueryCounts
from crossstage.inspection.queries import look_at_queries
from csla import with_csla
from tests.random_scenes import image_batch, tiny_dino, tiny_dino_node

CONFIG = """
from crossstage.config import get_config
from tests.random_scenes import tiny_dino_node

dataloader = get_config("common/data/coco.py").dataloader
dataloader.train.update(transform=None, total_batch_size=4, num_workers=0)
dataloader.test.update(transform=None, batch_size=4, num_workers=0)
model = tiny_dino_node()
optimizer = get_config("common/optim.py").optimizer
lr_multiplier = get_config("common/schedule.py").lr_multiplier_12ep
train = get_config("common/train.py").train
train.update(max_iter=2, log_period=1, eval_period=1, seed=7, device="cpu")
"""


@pytest.fixture(scope="module")
def detector() -> nn.Module:
    torch.manual_seed(0)
    made = tiny_dino(criterion=instantiate(with_csla(tiny_dino_node(), iou_threshold=0.0).criterion)).eval()
    with torch.no_grad():  # about half of the queries are active at .5
        _, (predicted,) = made.predict(image_batch(3, 1))
        made.decoder.class_heads[-1].bias -= predicted.outputs.logits[-1].amax(-1).median()
    return made


@torch.no_grad()
def test_an_evaluation_counts_what_the_inspection_counts_and_detects_the_same(detector: nn.Module):
    batches = [image_batch(3, 1), image_batch(0, 2)]
    counting = CountingDetector(detector).eval()
    for batch in batches:
        for ours, plain in zip(counting(batch), detector(batch), strict=True):
            assert ours.boxes_xyxy.equal(plain.boxes_xyxy) and ours.scores.equal(plain.scores)
    tallies, _ = look_at_queries({"model": detector}, batches, device=torch.device("cpu"))
    expected, scores = tallies["model"].numbers(), counting.counts.scores()
    assert scores == pytest.approx(
        {
            "gini_0.3": expected["activation_gini"][5],
            "gini_0.5": expected["activation_gini"][9],
            "top_fifth_0.3": expected["activation_top_share"][5],
            "top_fifth_0.5": expected["activation_top_share"][9],
            "match_gini": expected["match_gini"],
            **{f"positives_{stage}": count for stage, count in enumerate(expected["positives_per_object"], start=1)},
        },
        nan_ok=True,
    )
    assert (counting.counts.images, counting.counts.objects) == (4, 6)
    assert 0 < scores["gini_0.5"] < 1 and 0 < scores["match_gini"] < 1 and scores["positives_1"] > 1


@torch.no_grad()
def test_the_counts_of_processes_are_added(detector: nn.Module):
    batches = [image_batch(3, 1), image_batch(0, 2)]
    whole, *parts = (CountingDetector(detector) for _ in range(3))
    for part, batch in zip(parts, batches, strict=True):
        whole(batch), part(batch)
    idle = QueryCounts()  # a process without images
    assert idle.joined(part.counts for part in parts).scores() == whole.counts.scores()


def test_a_model_without_queries_is_refused():
    with pytest.raises(InputError, match=r"train\.query_metrics\.enabled=True: model is a Linear; expected a Detector"):
        CountingDetector(nn.Linear(2, 2))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    folder = tmp_path_factory.mktemp("query_metrics")
    (folder / "config.py").write_text(CONFIG)
    counts = ["--train", "8", "--val", "4", "--size", "64", "--workers", "1"]
    assert write_toy(["--output", str(folder / "data"), *counts]) == 0

    def train(name: str, *more: str) -> Path:
        given = [f"dataloader.root={folder / 'data'}", f"train.output_dir={folder / name}", *more]
        assert main(["--config-file", str(folder / "config.py"), *given]) == 0
        return folder / name

    return train


def test_every_evaluation_of_a_training_logs_them(trained: Callable[..., Path]):
    on, off = trained("on", "train.query_metrics.enabled=True"), trained("off")
    rows, plain = ([json.loads(line) for line in (run / "metrics.json").open()] for run in (on, off))
    names = {"gini_0.3", "gini_0.5", "top_fifth_0.3", "top_fifth_0.5", "match_gini", "positives_1", "positives_2"}
    logged = [{name.removeprefix("queries/") for name in row if name.startswith("queries/")} for row in rows]
    assert [found for found in logged if found] == [names, names]  # after iteration 1, and at the end
    assert not [name for row in plain for name in row if name.startswith("queries/")]
    last, before = rows[-1], plain[-1]
    assert {name: last[name] for name in before} == before  # the scores are those of a run without
    assert last["queries/positives_1"] == 1
    assert (on / "log.txt").read_text().count("queries: gini_0.3 ") == 2
    assert json.loads((on / "results.json").read_text())["queries"].keys() == names
