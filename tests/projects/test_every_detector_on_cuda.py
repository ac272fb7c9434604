"""Every detector on a GPU: it predicts as on the CPU, trains under bfloat16, and its decoder does not wait for it."""

import copy

import pytest
import torch

from crossstage.config import instantiate
from tests.random_scenes import image_batch
from tests.tiny_models import baselines, decoder_inputs, models, random_detector

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")


@pytest.mark.parametrize("name", baselines())
def test_predictions_are_those_of_the_cpu(name: str):
    detector, batch = random_detector(name), image_batch(15, 2)
    found = []
    for device in ("cpu", "cuda"):
        with torch.no_grad():
            _, (matching,) = copy.deepcopy(detector).to(device).eval().predict(batch.to(device))
        found.append(matching.outputs)
    for ours, expected in ((found[1].logits, found[0].logits), (found[1].boxes, found[0].boxes)):
        torch.testing.assert_close(ours.cpu(), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", models())
def test_it_trains_under_bfloat16(name: str):
    torch.manual_seed(0)
    detector = instantiate(models()[name]).cuda().train()
    with torch.autocast("cuda", torch.bfloat16):
        losses = detector(image_batch(15, 2).to("cuda")).terms
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    gradients = [parameter.grad for parameter in detector.parameters() if parameter.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("name", baselines())
def test_the_decoder_waits_for_nothing(name: str):
    detector = copy.deepcopy(random_detector(name)).cuda().eval()
    with torch.no_grad():
        inputs = decoder_inputs(detector, image_batch(15, 2).to("cuda"))
        torch.cuda.set_sync_debug_mode("error")
        try:
            detector.decoder(*inputs)
        finally:
            torch.cuda.set_sync_debug_mode("default")
