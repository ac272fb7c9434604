"""Batches whose gradients make one step equal the large batch: losses are divided by the objects of all."""

from types import SimpleNamespace

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from crossstage.config import LazyConfig, find_config, get_config, instantiate
from crossstage.engine.interrupt import StopSignals
from crossstage.engine.learner import Learner
from crossstage.engine.network import LossNetwork
from crossstage.engine.recorder import Recorder
from crossstage.engine.step import Steps
from crossstage.processes import Processes
from crossstage.structures import ImageBatch
from tests.random_scenes import image_batch
from tests.tiny_models import tiny


def part(batch: ImageBatch, images: slice) -> ImageBatch:
    return ImageBatch(
        pixels=batch.pixels[images],
        mask=batch.mask[images],
        sizes=batch.sizes[images],
        original_sizes=batch.original_sizes[images],
        image_ids=batch.image_ids[images],
        targets=batch.targets[images],
    )


def built(name: str) -> nn.Module:
    """A detector in float64 without what depends on the batch otherwise: batch norms, dropout, noise, ties.

    Boxes that start equal match two objects of a class equally well with each other's queries; then rounding decides.
    """
    node = tiny(LazyConfig.load(find_config(name)).model)
    node.backbone.frozen_norm = True
    if "queries" in node and "extra" in node.queries:
        node.queries.extra = [extra for extra in node.queries.extra if "Denoising" not in str(extra._target_)]
    if "perturbation" in node.decoder:
        node.decoder.perturbation = None
    model = instantiate(node).double().train()
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return model


def gradients(model: nn.Module, batches: list[ImageBatch]) -> tuple[dict[str, torch.Tensor], float]:
    """The gradients and the logged loss of one step, in the trainer's own way."""
    train = get_config("common/train.py").train
    train.accumulate = len(batches)
    fabric = Fabric(accelerator="cpu", devices=1)
    network, optimizer = fabric.setup(LossNetwork(model), torch.optim.SGD(model.parameters(), lr=1.0))
    session = SimpleNamespace(cfg=SimpleNamespace(train=train), fabric=fabric, processes=Processes())
    recorder = Recorder(session.processes, accumulate=len(batches), checks_each_step=True)
    steps = Steps(session, Learner(network, optimizer, model, None), loader=None, recorder=recorder)
    model.zero_grad()
    records = []
    assert steps._accumulate(0, batches, records, StopSignals()) == (None, 0)
    named = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    return named, sum(record.losses()["total_loss"] for record in records) / len(batches)


DETECTORS = ("dino_toy_csla_dca", "dino_toy_paq", "h_detr_toy_csla", "stage_interactor_toy", "deqdet_toy")


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("counts", [(5, 1, 0, 2)])
def test_two_batches_equal_the_large_one(name, counts):
    torch.manual_seed(0)
    model, whole = built(name), image_batch(*counts)
    expected, loss = gradients(model, [whole])
    state = {key: value.clone() for key, value in model.state_dict().items()}
    found, its = gradients(model, [part(whole, slice(0, 2)), part(whole, slice(2, 4))])
    assert its == pytest.approx(loss, rel=1e-6)
    assert found.keys() == expected.keys()
    least = 1e-10 * max(gradient.abs().max().item() for gradient in expected.values())  # zero up to rounding
    for key, gradient in expected.items():
        torch.testing.assert_close(
            found[key], gradient, rtol=1e-6, atol=least, msg=lambda text, key=key: f"{key}: {text}"
        )
    assert all(value.equal(model.state_dict()[key]) for key, value in state.items())


@pytest.mark.parametrize("counts", [(1, 0, 0, 0), (0, 0, 0, 0)])
def test_a_step_with_one_object_or_none(counts):
    test_two_batches_equal_the_large_one("adamixer_toy", counts)  # objects are counted
    test_two_batches_equal_the_large_one("stage_interactor_toy", counts)  # labels are counted
