"""The encoders and decoders that build parts per stage: each stage has its own, and a built part is refused."""

import pytest
import torch
from torch import nn

from crossstage.config import LazyCall as L
from crossstage.config import get_config, instantiate
from crossstage.modeling.decoders.conditional import ConditionalDecoder
from crossstage.modeling.decoders.deformable import DeformableDecoder
from crossstage.modeling.decoders.mixer import MixerDecoder
from crossstage.modeling.encoders.deformable import DeformableEncoder
from crossstage.modeling.encoders.dense import DenseEncoder

CLASSES = [DeformableEncoder, DenseEncoder, DeformableDecoder, ConditionalDecoder, MixerDecoder]
ARGUMENTS = {
    DeformableEncoder: ("position",),
    DenseEncoder: ("position",),
    DeformableDecoder: ("class_head", "box_head"),
    ConditionalDecoder: ("class_head", "box_head"),
    MixerDecoder: ("class_head", "box_head"),
}


def complete(kind: type, **changes: object) -> dict:
    """Arguments with which each of the classes can be constructed: a Linear node for each part."""
    part = L(nn.Linear)(in_features=2, out_features=2)
    return {"layer": part, "num_layers": 3, **dict.fromkeys(ARGUMENTS[kind], part), **changes}


@pytest.mark.parametrize("kind", CLASSES)
def test_each_stage_has_parts_of_its_own(kind: type):
    built = instantiate({"_target_": kind, **complete(kind)})
    assert len({layer.weight.data_ptr() for layer in built.layers}) == 3
    for argument in kind.per_stage:
        parts = getattr(built, f"{argument}s")
        assert len({part.weight.sum().item() for part in parts}) == 3, argument


@pytest.mark.parametrize(("kind", "argument"), [(kind, name) for kind in CLASSES for name in kind.per_stage])
def test_a_built_part_is_refused_with_class_and_argument(kind: type, argument: str):
    changed = complete(kind, **{argument: nn.Linear(2, 2)})
    for build in (lambda: kind(**changed), lambda: instantiate({"_target_": kind, **changed})):
        with pytest.raises(
            TypeError, match=rf"{kind.__name__}: {argument} is a built torch\.nn\.Linear.*give a config"
        ):
            build()


def test_only_the_first_stage_of_dab_detr_has_the_extra_projection():
    with torch.device("meta"):
        layers = instantiate(get_config("common/models/anchor_boxes_r50.py").model.decoder).layers
    assert [layer.cross_attn.query_pos_proj is not None for layer in layers] == [True, *[False] * 5]
