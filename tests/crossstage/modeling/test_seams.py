"""The parts that exist have the signatures that the seams promise to whoever writes another one."""

import inspect
from inspect import Parameter

import pytest
from torch import nn

from crossstage.modeling import seams
from crossstage.modeling.backbone import TimmBackbone
from crossstage.modeling.decoders.conditional import ConditionalDecoder
from crossstage.modeling.decoders.deformable import DeformableDecoder
from crossstage.modeling.decoders.mixer import MixerDecoder
from crossstage.modeling.encoders.deformable import DeformableEncoder
from crossstage.modeling.encoders.dense import DenseEncoder
from crossstage.modeling.encoders.none import NoEncoder
from crossstage.modeling.neck import ChannelMapper, SharedNormMapper, SingleLevelProjection
from crossstage.modeling.postprocess import TopK

PARTS = {
    seams.Backbone: [TimmBackbone],
    seams.Neck: [ChannelMapper, SharedNormMapper, SingleLevelProjection],
    seams.Encoder: [NoEncoder, DenseEncoder, DeformableEncoder],
    seams.Decoder: [DeformableDecoder, ConditionalDecoder, MixerDecoder],
    seams.Postprocess: [TopK],
}


def signature_of(part: type) -> inspect.Signature:
    return inspect.signature(part.forward if issubclass(part, nn.Module) else part.__call__)


def misfits(promised: inspect.Signature, found: inspect.Signature) -> list[str]:
    """Parameters of which the seam says something else than the part: name, place, or whether it may be left out."""
    expected, actual = list(promised.parameters), list(found.parameters)
    moved = [name for place, name in enumerate(expected) if actual[place : place + 1] != [name]]
    required = [name for name, parameter in found.parameters.items() if parameter.default is Parameter.empty]
    return moved + [name for name in required if name not in expected]


@pytest.mark.parametrize(
    ("seam", "part"), [(seam, part) for seam, parts in PARTS.items() for part in parts], ids=lambda part: part.__name__
)
def test_a_part_is_called_as_its_seam_says(seam: type, part: type):
    assert misfits(inspect.signature(seam.__call__), signature_of(part)) == []


def test_every_seam_says_what_it_is_given_and_returns():
    kinds = [kind for _, kind in inspect.getmembers(seams, inspect.isclass) if kind.__module__ == seams.__name__]
    assert set(PARTS) <= set(kinds)
    for kind in kinds:
        methods = {name: method for name, method in vars(kind).items() if name == "__call__" or name[0] != "_"}
        assert methods, kind
        assert [name for name, method in methods.items() if inspect.isfunction(method) and not method.__doc__] == []
