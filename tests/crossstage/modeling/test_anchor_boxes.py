"""Anchor boxes as queries, a dense encoder, a conditional decoder: what DAB-DETR and DN-DETR are made of."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from crossstage.config import get_config, instantiate
from crossstage.layers.attention import ConditionalCrossAttention
from crossstage.layers.position import box_sine_embedding
from crossstage.modeling.backbone import TimmBackbone
from crossstage.modeling.decoders.conditional import ModulatedSinePositions
from crossstage.modeling.detector import Detector
from crossstage.modeling.encoders.tokens import unpadded_memory
from crossstage.modeling.neck import pyramid
from crossstage.modeling.queries.anchors import AnchorQueries
from crossstage.structures import Levels, Memory, Queries, QueryGroup
from csla import with_csla
from dca import with_dca
from tests.random_scenes import boxes_inside, image_batch

WIDTH = 16


def tiny_node():
    """Two stages, one encoder layer, 6 anchors, 8 classes."""
    node = get_config("common/models/anchor_boxes_r50.py").model
    node.num_classes, node.embed_dim = 8, WIDTH
    node.backbone.update(
        name="resnet18", pretrained=False, options={"layers": [1, 1, 1, 1], "channels": [8, 8, 8, WIDTH]}
    )
    node.neck.in_channels = WIDTH
    node.encoder.num_layers, node.decoder.num_layers = 1, 2
    node.encoder.position.num_features = WIDTH // 2
    node.encoder.layer.ffn.feedforward_dim = node.decoder.layer.ffn.feedforward_dim = WIDTH
    node.queries.source.num_queries = 6
    return node


def random_detector(node) -> Detector:
    detector = instantiate(node)
    for parameter in detector.parameters():
        nn.init.normal_(parameter, std=0.3)
    return detector


def memory_of(tokens: Tensor, mask: Tensor) -> Memory:
    levels = Levels.of([(1, tokens.shape[1])], like=tokens)
    positions = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(1))
    return replace(unpadded_memory(tokens, levels), mask=mask, positions=positions)


@pytest.mark.parametrize("double", [False, True])
def test_only_the_first_stage_adds_positions_to_the_content_of_cross_attention(double):
    node = with_dca(tiny_node()) if double else tiny_node()
    stages = instantiate(node).decoder.layers
    attentions = [[m for m in stage.modules() if isinstance(m, ConditionalCrossAttention)] for stage in stages]
    assert [len(found) for found in attentions] == [1 + double] * 2
    first = [{attention.query_pos_proj is not None for attention in found} for found in attentions]
    assert first == [{True}, {False}]
    assert node.decoder.layer.cross_attn == (with_dca(tiny_node()) if double else tiny_node()).decoder.layer.cross_attn


@pytest.mark.parametrize("attends", [False, True])
def test_the_decoder_sees_padding_only_where_its_value_says_so(attends):
    node = tiny_node()
    node.decoder.attends_to_padding = attends
    decoder = random_detector(node).decoder.eval()
    queries = Queries(torch.randn(1, 4, WIDTH), boxes_inside(1, 4), (QueryGroup("matching", 4),))
    tokens, mask = torch.randn(1, 9, WIDTH), torch.arange(9)[None] >= 6
    changed = torch.where(mask[..., None], 5.0, tokens)
    logits = [decoder(queries, memory_of(content, mask)).logits for content in (tokens, changed)]
    assert logits[0].allclose(logits[1]) != attends


def test_the_encoder_never_sees_padding():
    encoder = random_detector(tiny_node()).encoder.eval()
    mask = torch.ones(1, 4, 5, dtype=torch.bool)
    mask[:, :3, :4] = False
    features = torch.randn(1, WIDTH, 4, 5)
    changed = torch.where(mask[:, None], 7.0, features)
    first, second = (encoder(pyramid([maps], mask)).tokens[~mask.flatten(1)] for maps in (features, changed))
    assert first.allclose(second, atol=1e-6)


def test_a_wide_box_stretches_the_attention_along_x_alone():
    positions = ModulatedSinePositions(WIDTH)
    content, boxes = torch.randn(1, 3, WIDTH), boxes_inside(1, 3)
    wider = boxes * torch.tensor([1.0, 1.0, 2.0, 1.0])
    narrow, wide = (positions(content, box, first_stage=True) for box in (boxes, wider))
    assert wide[..., : WIDTH // 2].equal(narrow[..., : WIDTH // 2])
    assert wide[..., WIDTH // 2 :].allclose(narrow[..., WIDTH // 2 :] / 2)
    sine = box_sine_embedding(boxes[..., :2], WIDTH // 2)
    size = positions.size(content).sigmoid()
    assert narrow[..., : WIDTH // 2].allclose(sine[..., : WIDTH // 2] * (size[..., 1:] / boxes[..., 3:]), atol=1e-6)
    assert not positions(content, boxes, first_stage=False).allclose(narrow)


def test_each_pattern_goes_with_all_anchors_pattern_by_pattern():
    source = AnchorQueries(num_queries=5, embed_dim=WIDTH, num_patterns=3)
    queries = source(memory_of(torch.zeros(2, 4, WIDTH), torch.zeros(2, 4, dtype=torch.bool)), 15)
    assert queries.content.shape == (2, 15, WIDTH)
    assert [group.size for group in queries.groups] == [15]
    for pattern in range(3):
        part = slice(5 * pattern, 5 * pattern + 5)
        assert queries.content[1, part].equal(source.patterns.weight[pattern].expand(5, -1))
        assert queries.references[1, part].equal(source.anchors.weight.sigmoid())


def test_anchors_start_evenly_over_the_image_and_learn():
    anchors = AnchorQueries(num_queries=2000, embed_dim=WIDTH).anchors.weight
    centres = anchors.sigmoid()[:, :2]
    assert anchors.requires_grad
    assert centres.std(dim=0).tolist() == pytest.approx([12**-0.5] * 2, rel=0.05)  # uniform on [0, 1]
    plain = AnchorQueries(num_queries=2000, embed_dim=WIDTH, uniform_centres=False).anchors.weight
    assert plain.std(dim=0).tolist() == pytest.approx([1.0] * 4, rel=0.1)


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (3, 5)])
@pytest.mark.parametrize("plug_in", [None, with_csla, with_dca])
def test_every_parameter_takes_part_in_training(counts, plug_in):
    node = tiny_node() if plug_in is None else plug_in(tiny_node())
    detector = random_detector(node).train()
    losses = detector(image_batch(*counts)).terms
    assert sorted({name.removesuffix("_0") for name in losses}) == ["loss_bbox", "loss_class", "loss_giou"]
    sum(losses.values()).backward()
    learning = {name: parameter.grad for name, parameter in detector.named_parameters() if parameter.requires_grad}
    assert [name for name, gradient in learning.items() if gradient is None or not gradient.isfinite().all()] == []
    assert learning["queries.source.anchors.weight"].abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions_run(dtype):
    detector = random_detector(tiny_node()).eval()
    if dtype == torch.float64:
        found = detector.double()(image_batch(1))[0]
    else:
        with torch.autocast("cpu", dtype=dtype):
            found = detector(image_batch(1))[0]
    assert found.boxes_xyxy.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_a_dilated_last_stage_is_found_by_its_stride():
    options = {"layers": [1, 1, 1, 1], "channels": [8, 12, 16, 24], "output_stride": 16}
    backbone = TimmBackbone("resnet18", strides=[16], pretrained=False, options=options)
    assert backbone.channels == (24,)
    (features,) = backbone(torch.zeros(1, 3, 64, 96), torch.zeros(1, 64, 96, dtype=torch.bool))
    assert features.shape == (1, 24, 4, 6)
