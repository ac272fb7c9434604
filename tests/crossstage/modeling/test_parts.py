"""Backbone, neck, encoder, layers and decoder, each for what the next one relies on."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from crossstage.config import LazyCall as L
from crossstage.errors import InputError
from crossstage.layers.mlp import FFN, BoxHead, ClassHead
from crossstage.modeling.backbone import TimmBackbone, freeze_stages
from crossstage.modeling.decoders.deformable import BoxQueryPositions, DeformableDecoder
from crossstage.modeling.encoders.tokens import token_places, unpadded_memory, valid_ratios
from crossstage.modeling.neck import ChannelMapper, nearest_mask
from crossstage.modeling.transformer import DECODER_ORDER, ENCODER_ORDER, TransformerLayer
from crossstage.structures import Levels, Memory, Queries, QueryGroup

SMALL = {"name": "resnet18", "pretrained": False, "options": {"channels": [8, 8, 16, 16]}}


def test_backbone_maps_come_finest_first_with_their_strides():
    backbone = TimmBackbone(**SMALL, strides=[32, 8, 16])
    maps = backbone(torch.zeros(1, 3, 64, 96, dtype=torch.uint8), torch.zeros(1, 64, 96, dtype=torch.bool))
    assert (backbone.strides, backbone.channels) == ((8, 16, 32), (8, 16, 16))
    assert [tuple(level.shape[1:]) for level in maps] == [(8, 8, 12), (16, 4, 6), (16, 2, 3)]


def test_padding_is_the_mean_colour_whatever_its_pixels_are():
    backbone = TimmBackbone(**SMALL).eval()
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[:, :, 40:] = True
    pixels = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    black, white = (pixels.masked_fill(mask[:, None], shade) for shade in (0, 255))
    assert all(a.equal(b) for a, b in zip(backbone(black, mask), backbone(white, mask), strict=True))
    mean = backbone.pixel_mean.expand(1, 3, 64, 64)
    free = torch.zeros_like(mask)
    blank = backbone(pixels, torch.ones_like(mask))
    for a, b in zip(backbone(mean, free), blank, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("stages", "frozen"), [(0, ()), (1, ("conv1",)), (2, ("conv1", "layer1")), (5, ("conv1", "layer"))]
)
def test_frozen_stages_are_the_stem_then_each_stage(stages, frozen):
    body = TimmBackbone(**SMALL, frozen_stages=stages).body
    for name, parameter in body.named_parameters():
        assert parameter.requires_grad != name.startswith(frozen or "none"), name


def test_frozen_norms_are_constants():
    backbone = TimmBackbone(**SMALL).train()
    assert not [name for name, _ in backbone.named_parameters() if "bn" in name or "downsample.1" in name]
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    backbone(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8), torch.zeros(2, 64, 64, dtype=torch.bool))
    assert all(value.equal(before[name]) for name, value in backbone.state_dict().items())
    assert [name for name, _ in TimmBackbone(**SMALL, frozen_norm=False).named_parameters() if "bn" in name]


def test_a_wrong_backbone_is_an_input_error():
    with pytest.raises(InputError, match=r"backbone.name='resnet51': timm has no such model; near names: .*resnet5"):
        TimmBackbone("resnet51", pretrained=False)
    with pytest.raises(
        InputError, match=r"strides=\[8, 64\]: resnet18 has no map of stride 64; it has \[2, 4, 8, 16, 32\]"
    ):
        TimmBackbone("resnet18", pretrained=False, strides=[8, 64])
    with pytest.raises(InputError, match="frozen_stages=1: found no stages in Linear; use 0"):
        freeze_stages(nn.Linear(2, 2), 1)


def test_extra_levels_start_from_the_last_backbone_map():
    neck = ChannelMapper([4, 6], 8, num_levels=4, groups=2)
    maps = [torch.randn(1, 4, 8, 12), torch.randn(1, 6, 4, 6)]
    pyramid = neck(maps, torch.zeros(1, 64, 96, dtype=torch.bool))
    assert pyramid.shapes == ((8, 12), (4, 6), (2, 3), (1, 2))
    assert [mask.shape[1:] for mask in pyramid.masks] == [(8, 12), (4, 6), (2, 3), (1, 2)]
    assert pyramid.maps[2].equal(neck.extra_convs[0](maps[1]))
    assert pyramid.maps[3].equal(neck.extra_convs[1](pyramid.maps[2]))


@pytest.mark.parametrize(
    ("size", "cells"), [((64, 96), (8, 12)), ((61, 83), (8, 11)), ((5, 7), (3, 4)), ((1333, 800), (167, 100))]
)
def test_masks_shrink_as_torchs_nearest_mode(size, cells):
    mask = torch.rand(2, *size) < 0.5
    theirs = nn.functional.interpolate(mask[None].float(), size=cells).bool()[0]
    assert nearest_mask(mask, *cells).equal(theirs)


def test_valid_ratios_and_places_are_in_unpadded_coordinates():
    mask = torch.ones(1, 4, 8, dtype=torch.bool)
    mask[0, :3, :4] = False
    ratios = valid_ratios((mask,), dtype=torch.float32)
    assert ratios.tolist() == [[[0.5, 0.75]]]
    places = token_places(ratios, Levels.of([(4, 8)], like=ratios)).view(4, 8, 2)
    assert places[0, 0].tolist() == pytest.approx([0.5 / 4, 0.5 / 3])
    assert places[2, 3].tolist() == pytest.approx([3.5 / 4, 2.5 / 3])
    assert places[3, 7].min() > 1  # padding lies outside


class Adds(nn.Module):
    """An attention that adds one number, and remembers what it was told."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number, self.told = number, {}

    def forward(self, query, *, identity, **told):
        self.told = {"identity": identity, **told}
        return identity + self.number


def test_a_layer_runs_its_parts_in_order_and_hands_each_its_keywords():
    first, second = Adds(1.0), Adds(10.0)
    layer = TransformerLayer(
        4, self_attn=first, cross_attn=second, ffn=Adds(100.0), order=("self_attn", "cross_attn", "ffn")
    )
    out = layer(torch.zeros(1, 1, 4), self_attn={"mask": "a"}, cross_attn={"memory": "b"})
    assert out.flatten().tolist() == [111.0] * 4
    assert (first.told["mask"], second.told["memory"]) == ("a", "b")
    assert len(layer.norms) == 0


def test_post_norm_residuals_are_what_the_part_reads_and_pre_norm_ones_run_on():
    query = torch.randn(1, 2, 4)
    post = TransformerLayer(4, self_attn=Adds(1.0), ffn=Adds(1.0), order=ENCODER_ORDER)
    normed = post.norms[0](query + 1)
    torch.testing.assert_close(post(query), post.norms[1](normed + 1))
    pre = TransformerLayer(4, self_attn=Adds(1.0), ffn=Adds(1.0), order=("norm", "self_attn", "norm", "ffn"))
    torch.testing.assert_close(pre(query), query + 2)


def test_an_order_that_names_a_missing_part_is_an_error():
    with pytest.raises(ValueError, match="names 'cross_attn', which this layer was not given"):
        TransformerLayer(4, self_attn=Adds(1.0), ffn=Adds(1.0), order=DECODER_ORDER)


def decoder_of(stages: int, **options) -> DeformableDecoder:
    layer = L(TransformerLayer)(embed_dim=8, ffn=L(FFN)(embed_dim=8, feedforward_dim=8), order=["ffn", "norm"])
    return DeformableDecoder(
        layer,
        num_layers=stages,
        class_head=L(ClassHead)(embed_dim=8, num_classes=3),
        box_head=L(BoxHead)(embed_dim=8),
        query_positions=BoxQueryPositions(8),
        **options,
    )


def decoder_scene() -> tuple[Queries, Memory]:
    references = torch.rand(2, 5, 4) * 0.8 + 0.1
    queries = Queries(torch.randn(2, 5, 8), references.requires_grad_(), (QueryGroup("matching", 5),))
    levels = Levels.of([(1, 1)], like=references)
    return queries, unpadded_memory(torch.randn(2, 1, 8), levels)


def test_a_new_decoder_predicts_the_boxes_that_it_was_given_at_every_stage():
    queries, memory = decoder_scene()
    outputs = decoder_of(3)(queries, memory)
    assert outputs.logits.shape == (3, 2, 5, 3)
    for stage in range(3):
        torch.testing.assert_close(outputs.boxes[stage], queries.references)
        torch.testing.assert_close(outputs.references[stage], queries.references)


class Remembers(nn.Module):
    """Query positions that remember the boxes that they were made from."""

    def forward(self, references):
        self.seen = references.detach()
        return references.new_zeros(*references.shape[:2], 8)


def test_query_positions_are_made_in_padded_coordinates_as_the_released_models_do():
    queries, memory = decoder_scene()
    memory = replace(memory, valid_ratios=torch.tensor([[[1.0, 1.0]], [[0.5, 0.25]]]))
    decoder = decoder_of(1)
    decoder.query_positions = Remembers()
    decoder(queries, memory)
    padded = queries.references * torch.tensor([[[1.0, 1, 1, 1]], [[0.5, 0.25, 0.5, 0.25]]])
    torch.testing.assert_close(decoder.query_positions.seen, padded.detach())


def test_queries_without_positions_of_any_kind_are_an_error():
    queries, memory = decoder_scene()
    decoder = decoder_of(1)
    decoder.query_positions = None
    with pytest.raises(ValueError, match=r"decoder\.query_positions=None and Queries\.positions=None"):
        decoder(queries, memory)
    assert decoder(replace(queries, positions=torch.zeros(2, 5, 8)), memory).num_stages == 1


@pytest.mark.parametrize("twice", [True, False])
def test_look_forward_twice_lets_a_stages_boxes_reach_the_stage_before(twice):
    queries, memory = decoder_scene()
    decoder = decoder_of(3, look_forward_twice=twice)
    for parameter in decoder.parameters():
        nn.init.normal_(parameter, std=0.2)
    decoder(queries, memory).boxes[2].sum().backward()
    reached = [bool(head.layers[-1].weight.grad.count_nonzero()) for head in decoder.box_heads]
    assert reached == [False, twice, True]
