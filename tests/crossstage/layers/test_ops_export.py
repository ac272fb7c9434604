"""The sampling of deformable attention and AdaMixer in graphs that other runtimes execute."""

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from crossstage.layers.ops import weighted_rows as ops
from crossstage.layers.ops.bilinear_samples import bilinear_samples
from crossstage.structures import Levels


class Sampling(nn.Module):
    """Samples of one map: [B, h, w, H, D], [B, N, H, 1, P, 2], [B, N, H, 1, P] -> [B, N, H, D]."""

    def forward(self, maps: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        levels = Levels.of([(maps.shape[1], maps.shape[2])], locations)
        return bilinear_samples(maps.flatten(1, 2), levels, locations=locations, weights=weights)


def inputs(batch: int, height: int, width: int, queries: int, points: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(height)
    shape = (batch, queries, 2, 1, points)
    locations = torch.rand(*shape, 2, generator=generator) * 1.4 - 0.2  # some outside
    return (
        torch.randn(batch, height, width, 2, 4, generator=generator),
        locations,
        torch.rand(shape, generator=generator),
    )


@pytest.fixture(scope="module")
def program():
    """The operation with every axis dynamic, as torch.export records it."""
    images, queries = Dim("images", max=99), Dim("queries", max=999)
    axes = ({0: images, 1: Dim.DYNAMIC, 2: Dim.DYNAMIC}, {0: images, 1: queries}, {0: images, 1: queries})
    with torch.no_grad():
        return torch.export.export(Sampling(), inputs(2, 5, 6, 3), dynamic_shapes=axes, strict=False)


@pytest.mark.parametrize("largest_part", [1, 4 * 3 * 2, 2**23])
def test_the_form_for_export_gives_the_sums_of_the_bags_in_any_number_of_parts(largest_part, monkeypatch):
    monkeypatch.setattr(ops, "LARGEST_PART", largest_part)
    table, weights = torch.randn(9, 4), torch.rand(5, 3)
    rows = torch.randint(0, 9, (5, 3), dtype=torch.int32)
    torch.testing.assert_close(ops._gathered_sums(table, rows, weights), ops.weighted_rows(table, rows, weights))


def test_a_recorded_graph_gathers_and_holds_for_other_sizes(program):
    assert not [node for node in program.graph.nodes if "embedding_bag" in str(node.target)]
    for shape in ((1, 4, 9, 7), (3, 2, 3, 5)):
        given = inputs(*shape)
        torch.testing.assert_close(program.module()(*given), Sampling()(*given))


def test_onnx_has_no_loop_and_computes_the_same(program):
    onnxruntime = pytest.importorskip("onnxruntime")
    graph = torch.onnx.export(program, dynamo=True, verbose=False, input_names=["maps", "locations", "weights"])
    kinds = {node.op_type for node in graph.model.graph.all_nodes()}
    assert not [kind for kind in kinds if kind in ("Loop", "Scan", "If") or "Sequence" in kind]
    session = onnxruntime.InferenceSession(graph.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    given = inputs(3, 4, 9, 7)
    (found,) = session.run(None, dict(zip(("maps", "locations", "weights"), map(Tensor.numpy, given), strict=True)))
    torch.testing.assert_close(torch.from_numpy(found), Sampling()(*given))
