"""The Triton kernels compute what the plain form computes: in Triton's interpreter on a CPU, on the device with a GPU.

conftest.py chooses the interpreter. In it programs run one after another, so that races cannot show, and nothing is
said about speed.
"""

import pytest
import torch

from crossstage.layers.ops.bilinear_samples import bilinear_samples
from crossstage.structures import Levels

pytest.importorskip("triton", reason="the kernels need Triton (pip install triton)")
from crossstage.layers.ops.bilinear_triton import kernel_samples

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = ((7, 5), (4, 3), (1, 2), (1, 1))


def scene(shapes=SHAPES, *, batch=2, queries=5, heads=2, width=4, points=2, inner=(), dtype=torch.float64):
    """Values, levels, locations up to a third of the map beyond it, and weights."""
    torch.manual_seed(0)
    levels = Levels.of(shapes, like=torch.zeros(1, dtype=dtype, device=DEVICE))
    values = torch.randn(batch, sum(levels.tokens), heads, width, dtype=dtype, device=DEVICE)
    shape = (batch, queries, heads, *inner, len(shapes), points)
    locations = torch.rand(*shape, 2, dtype=dtype, device=DEVICE) * 1.6 - 0.3
    return values, levels, locations, torch.rand(shape, dtype=dtype, device=DEVICE)


def results(function, values, levels, locations, weights):
    """The output and the gradients of values, locations and weights, for one random slope."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (values, locations, weights)]
    output = function(leaves[0], levels, locations=leaves[1], weights=leaves[2])
    torch.manual_seed(5)
    slope = torch.randn(output.shape, dtype=torch.float64, device=DEVICE).to(output.dtype)
    return output, *torch.autograd.grad(output, leaves, slope)


def assert_equal(inputs, tolerance: float) -> None:
    for ours, plain in zip(results(kernel_samples, *inputs), results(bilinear_samples, *inputs), strict=True):
        assert ours.isfinite().all()
        torch.testing.assert_close(ours, plain, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="four levels, two of them of one row or one cell"),
        pytest.param({"shapes": ((6, 9),), "points": 1, "width": 8}, id="one level, one point"),
        pytest.param({"shapes": ((1, 1), (1, 1)), "points": 3, "width": 5}, id="sizes that are no powers of two"),
        pytest.param({"queries": 17, "points": 4, "width": 32, "batch": 1}, id="one row more than a block"),
        pytest.param({"inner": (3,), "points": 1}, id="3-D sampling, three points"),
        pytest.param(
            {"inner": (17,), "points": 1, "queries": 1, "heads": 1}, id="3-D sampling, more points than a block"
        ),
        pytest.param({"queries": 0}, id="no queries"),
        pytest.param({"batch": 0}, id="no images"),
    ],
)
def test_output_and_gradients_are_those_of_the_plain_form(options):
    assert_equal(scene(**options), 1e-11)


def test_float32_agrees():
    assert_equal(scene(width=32, points=4, dtype=torch.float32), 2e-5)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy, which is the interpreter's arithmetic
def test_places_that_are_not_on_the_map_count_as_zero_and_have_no_gradient():
    values, levels, locations, weights = scene(queries=8, heads=1)
    locations[0, 0] = float("nan")
    locations[0, 1, ..., 0] = float("nan")
    locations[0, 2] = float("inf")
    locations[0, 3, ..., 1] = -float("inf")
    locations[0, 4], locations[0, 5], locations[0, 6] = 1e30, -1e30, 1e9
    locations[1, 0], locations[1, 1] = 0.0, 1.0  # half a cell from the first and the last centre
    assert_equal((values, levels, locations, weights), 1e-10)
    output, _, of_locations, _ = results(kernel_samples, values, levels, locations, weights)
    assert not output[0, :7].any() and not of_locations[0, :7].any()


def test_slopes_at_pixel_centres_are_those_of_the_upper_side():
    values, levels, _, weights = scene(((4, 4), (2, 2)), queries=16, points=1)
    steps = (torch.arange(4, dtype=torch.float64, device=DEVICE) + 0.5) / 4
    places = torch.cartesian_prod(steps, steps)[None, :, None, None, None].expand(2, 16, 2, 2, 1, 2)
    assert_equal((values, levels, places.contiguous(), weights), 1e-11)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 1e-2), (torch.float16, 1.5e-3)])
def test_half_precision_values_are_summed_in_float32(dtype, tolerance):
    """One rounding of the output and of the gradients is all that is lost against float64."""
    values, levels, locations, weights = scene(queries=9, width=32, points=4, dtype=torch.float32)
    halved = values.to(dtype)
    found = results(kernel_samples, halved, levels, locations, weights)
    exact = [tensor.double() for tensor in (halved, locations, weights)]
    wanted = results(bilinear_samples, exact[0], Levels.of(SHAPES, like=exact[0]), exact[1], exact[2])
    assert found[0].dtype == found[1].dtype == dtype and found[2].dtype == found[3].dtype == torch.float32
    for ours, plain in zip(found, wanted, strict=True):
        assert (ours.double() - plain).norm() <= tolerance * plain.norm()


def test_the_gradient_of_the_values_is_left_out_where_it_is_not_wanted():
    values, levels, locations, weights = scene()
    expected = results(bilinear_samples, values, levels, locations, weights)[2]
    locations.requires_grad_()
    output = kernel_samples(values, levels, locations=locations, weights=weights)
    torch.manual_seed(5)
    found = torch.autograd.grad(output, locations, torch.randn(output.shape, dtype=torch.float64, device=DEVICE))
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-11)


def test_every_element_of_the_gradients_is_written(monkeypatch):
    inputs = scene(queries=17, points=3, width=5)
    expected = results(kernel_samples, *inputs)
    monkeypatch.setattr(torch, "empty_like", lambda like: torch.full_like(like, float("nan")))
    torch.testing.assert_close(results(kernel_samples, *inputs), expected, rtol=0, atol=1e-11)


def test_second_derivatives_are_refused():
    values, levels, locations, weights = scene(queries=1, batch=1, heads=1)
    values.requires_grad_()
    output = kernel_samples(values, levels, locations=locations, weights=weights)
    (first,) = torch.autograd.grad(output.square().sum(), values, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        first.sum().backward()


def test_a_compiled_graph_holds_the_kernel_without_a_break():
    inputs = scene(((3, 2),), queries=1, batch=1, heads=1)
    compiled = torch.compile(kernel_samples, backend="aot_eager", fullgraph=True)
    for ours, plain in zip(results(compiled, *inputs), results(kernel_samples, *inputs), strict=True):
        torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
def test_the_seam_takes_the_kernel_on_a_cuda_device_and_the_plain_form_in_deterministic_mode():
    inputs = scene(width=32, points=4, dtype=torch.float32)
    assert "_Samples" in str(results(bilinear_samples, *inputs)[0].grad_fn)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        assert "_Samples" not in str(results(bilinear_samples, *inputs)[0].grad_fn)
    finally:
        torch.use_deterministic_algorithms(False)
