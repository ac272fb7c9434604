"""What holds for the predictions of every detector in `projects`, built tiny from its config.

Padding: a detector's predictions do not depend on it, but for what sees the padded map by construction, as in the
released models, and is replaced here: a backbone's and a neck's convolutions read across the border of an image,
group norms take their statistics over the padded map, DINO's query positions are coordinates in it, the decoder of
detrex's DAB-DETR attends to padding, and AdaMixer samples the neck's bias there. All else must not see it. Sizes are
multiples of the coarsest stride, 64: others' masks are rounded to whole cells, differently for each padded size.
"""

import copy
from dataclasses import replace

import pytest
import torch
from crossstage.projects.deqdet.modeling.steps import DeformableStep
from omegaconf import DictConfig, ListConfig
from torch import Tensor, nn

from crossstage.modeling.decoders.deformable import DeformableDecoder
from crossstage.modeling.detector import Detector
from crossstage.structures import ImageBatch, StageOutputs
from tests.random_scenes import LocalBackbone, alone, image_batch
from tests.tiny_models import baselines, decoder_inputs, random_detector, randomised

QUERIES = 7


def predicted(detector: Detector, batch: ImageBatch) -> StageOutputs:
    """All stages of the queries that are evaluated."""
    with torch.no_grad():
        _, (matching,) = detector.eval().predict(batch)
    return matching.outputs


def assert_same(found: StageOutputs, expected: StageOutputs) -> None:
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.boxes, expected.boxes, rtol=1e-9, atol=1e-9)


def assert_each_as_alone(together: StageOutputs, detector: Detector, batch: ImageBatch) -> None:
    for image in range(len(batch)):
        part = StageOutputs(together.logits[:, image, None], together.boxes[:, image, None])
        assert_same(part, predicted(detector, alone(batch, image)))


@pytest.mark.parametrize("name", baselines())
def test_images_of_one_size_are_predicted_as_alone(name: str):
    detector, batch = random_detector(name), image_batch(1, 1)
    together = predicted(detector, batch)
    assert together.boxes.dtype == together.logits.dtype == torch.float64
    assert_each_as_alone(together, detector, batch)


class NoPositions(nn.Module):
    """Stands in for DINO's query positions."""

    def forward(self, references: Tensor) -> Tensor:
        return references.new_zeros(1)


def blind_to_padding(node: DictConfig) -> Detector:
    """The detector with those parts replaced that see padding by construction."""
    node = copy.deepcopy(node)
    strides, several = node.backbone.strides, isinstance(node.neck.in_channels, ListConfig)
    node.neck.in_channels = [3] * len(strides) if several else 3
    if "kernel_size" in node.neck:
        node.neck.kernel_size = 1
    if "attends_to_padding" in node.decoder:
        node.decoder.attends_to_padding = False
    detector = randomised(node)
    detector.backbone = LocalBackbone(strides).double()
    for module in list(detector.neck.modules()):
        if isinstance(getattr(module, "norm", None), nn.GroupNorm):
            module.norm = nn.Identity()
        if isinstance(module, nn.Conv2d):
            module.bias.data.zero_()
    for module in detector.decoder.modules():
        if isinstance(module, DeformableDecoder | DeformableStep) and module.query_positions is not None:
            module.query_positions = NoPositions()
    return detector


@pytest.mark.parametrize("name", baselines())
def test_padding_changes_nothing(name: str):
    detector = blind_to_padding(baselines()[name])
    batch = image_batch(1, 1, sizes=((64, 128), (128, 64)), padded=(192, 256))
    assert_each_as_alone(predicted(detector, batch), detector, batch)


@pytest.mark.parametrize("name", baselines())
def test_the_decoder_knows_no_order_of_queries(name: str):
    detector, batch = random_detector(name).eval(), image_batch(1, 1)
    with torch.no_grad():
        queries, memory = decoder_inputs(detector, batch)
        order = torch.randperm(queries.content.shape[1])
        moved = {
            key: getattr(queries, key)[:, order]
            for key in ("content", "references", "positions")
            if getattr(queries, key) is not None
        }
        found = detector.decoder(replace(queries, **moved), memory)
    expected = predicted(detector, batch)
    assert_same(found, StageOutputs(expected.logits[:, :, order], expected.boxes[:, :, order]))


OF_QUERIES = [  # the parameters that have a row per query
    f"source.{name}" for name in ("anchors.weight", "content.weight", "content.weights.queries", "embedding.weight")
]
LEARNED = [name for name, node in baselines().items() if "class_head" not in node.queries.source]


@pytest.mark.parametrize("name", LEARNED)
def test_learned_queries_know_no_order(name: str):
    detector, batch, order = copy.deepcopy(random_detector(name)), image_batch(1, 1), torch.randperm(QUERIES)
    expected = predicted(detector, batch)
    for key, parameter in detector.queries.named_parameters():
        if key in OF_QUERIES:
            parameter.data[:QUERIES] = parameter.data[order]
    patterns = expected.boxes.shape[2] // QUERIES
    moved = (torch.arange(patterns)[:, None] * QUERIES + order).flatten()
    found = predicted(detector, batch)
    assert not found.boxes.equal(expected.boxes)
    assert_same(found, StageOutputs(expected.logits[:, :, moved], expected.boxes[:, :, moved]))
