"""The small configs at their real size: each trains on a batch and evaluates at another padded size."""

from pathlib import Path

import pytest
import torch

from crossstage.config import LazyConfig, instantiate
from tests.random_scenes import image_batch

ROOT = Path(__file__).resolve().parents[2]
SMALL = {path.stem: path for path in sorted(ROOT.glob("projects/*/configs/*_toy.py"))}


def test_the_small_configs_are_found():
    assert len(SMALL) >= 8  # one per project


@pytest.mark.parametrize("name", SMALL)
def test_a_small_detector_fits_a_batch_and_takes_other_sizes(name: str):
    torch.manual_seed(0)
    config = LazyConfig.load(str(SMALL[name]))
    assert config.model.num_classes == 8
    model = instantiate(config.model).train()
    assert sum(parameter.numel() for parameter in model.parameters()) < 2_500_000
    config.optimizer.params.model, config.optimizer.lr = model, 5e-4  # the recipe's full rate comes after a warm-up
    optimizer = instantiate(config.optimizer)
    batch = image_batch(3, 2, sizes=((48, 64), (64, 49)))
    totals = []
    for _ in range(5):
        total = model(batch).total
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.95 * totals[0]
    with torch.no_grad():
        (found,) = model.eval()(image_batch(1, sizes=((61, 43),)))
    assert len(found.scores) == config.model.postprocess.num_select
    assert found.boxes_xyxy.isfinite().all()
