"""Modulated deformable convolution against a loop over its definition, and against plain convolutions."""

import math

import pytest
import torch
from torch import Tensor, nn

from crossstage.layers.deform_conv import ModulatedDeformConv2d, modulated_deform_conv2d

GEOMETRIES = [(1, 1, 1), (2, 1, 1), (1, 2, 2), (2, 0, 1)]  # stride, padding, dilation


def pixel(image: Tensor, y: float, x: float) -> Tensor:
    """The bilinear sample [C] of one image [C, H, W] at a place; zeros beyond it."""
    value = image.new_zeros(image.shape[0])
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < image.shape[1] and 0 <= column < image.shape[2]:
                value = value + image[:, row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return value


def by_definition(conv: ModulatedDeformConv2d, image: Tensor) -> Tensor:
    """One image [C, H, W] -> [C', H', W'], a loop over places and taps."""
    stride, padding, dilation = (conv.geometry[name] for name in ("stride", "padding", "dilation"))
    predicted = conv.conv_offset(image[None])[0].detach()
    size = conv.weight.shape[-1]
    output = image.new_zeros(conv.weight.shape[0], *predicted.shape[1:])
    width = image.shape[0] // conv.groups  # input channels of a group
    for channel in range(conv.weight.shape[0]):
        group = channel // (conv.weight.shape[0] // conv.groups)
        for row in range(predicted.shape[1]):
            for column in range(predicted.shape[2]):
                for tap in range(size * size):
                    dy, dx = predicted[2 * tap, row, column], predicted[2 * tap + 1, row, column]
                    y = row * stride - padding + tap // size * dilation + float(dy)
                    x = column * stride - padding + tap % size * dilation + float(dx)
                    mask = predicted[2 * size * size + tap, row, column].sigmoid()
                    sample = pixel(image, y, x)[group * width : (group + 1) * width]
                    filters = conv.weight[channel, :, tap // size, tap % size]
                    output[channel, row, column] += mask * (filters * sample).sum()
        if conv.bias is not None:
            output[channel] += conv.bias[channel]
    return output


def moved(groups: int = 1, bias: bool = False, geometry: tuple[int, int, int] = (1, 1, 1)) -> ModulatedDeformConv2d:
    stride, padding, dilation = geometry
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "bias": bias}
    conv = ModulatedDeformConv2d(4, 6, 3, **options).double()
    nn.init.normal_(conv.conv_offset.weight, std=0.5)
    nn.init.normal_(conv.conv_offset.bias, std=1.5)  # some taps leave the image
    return conv


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(("groups", "bias"), [(1, True), (2, False)])
def test_the_definition_is_met(geometry: tuple[int, int, int], groups: int, bias: bool):
    conv = moved(groups, bias, geometry)
    images = torch.randn(2, 4, 6, 7, dtype=torch.float64)
    expected = torch.stack([by_definition(conv, image) for image in images])
    torch.testing.assert_close(conv(images), expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("groups", [1, 2])
def test_at_the_start_it_is_half_of_the_plain_convolution(geometry: tuple[int, int, int], groups: int):
    stride, padding, dilation = geometry
    plain = nn.Conv2d(4, 6, 3, stride, padding, dilation, groups, bias=False)
    images = torch.randn(2, 4, 9, 8)
    torch.testing.assert_close(ModulatedDeformConv2d.like(plain)(images), plain(images) / 2, atol=1e-5, rtol=1e-5)


def test_gradients_of_everything():
    torch.manual_seed(3)
    features = torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    offsets = torch.randn(1, 18, 2, 3, dtype=torch.float64, requires_grad=True)
    masks = torch.rand(1, 9, 2, 3, dtype=torch.float64, requires_grad=True)

    def convolve(features: Tensor, weight: Tensor, offsets: Tensor, masks: Tensor) -> Tensor:
        geometry = {"stride": 2, "padding": 1, "dilation": 1}
        return modulated_deform_conv2d(features, weight, offsets=offsets, masks=masks, groups=2, **geometry)

    assert torch.autograd.gradcheck(convolve, (features, weight, offsets, masks))


def test_its_parameters_are_named_and_shaped_as_mmdets():
    shapes = {name: tuple(value.shape) for name, value in ModulatedDeformConv2d(64, 64, groups=32).state_dict().items()}
    assert shapes == {
        "weight": (64, 2, 3, 3),
        "conv_offset.weight": (27, 64, 3, 3),
        "conv_offset.bias": (27,),
    }


@pytest.mark.parametrize("bias", [False, True])
def test_a_convolution_hands_over_its_parameters(bias: bool):
    plain = nn.Conv2d(4, 6, 3, padding=1, bias=bias).to("meta")
    moved = ModulatedDeformConv2d.like(plain)
    assert (moved.weight, moved.bias) == (plain.weight, plain.bias)
    assert {parameter.device.type for parameter in moved.parameters()} == {"meta"}


def test_coordinates_stay_exact_under_autocast():
    """A bfloat16 coordinate of a 300 pixels wide map is off by up to a pixel: a ramp shows it."""
    conv = ModulatedDeformConv2d(1, 1)
    with torch.no_grad():
        conv.weight.zero_()[0, 0, 1, 1] = 2.0  # the middle tap, undoing its mask of 1/2
    ramp = (torch.arange(300) % 2).float().expand(1, 1, 4, 300)
    with torch.autocast("cpu", torch.bfloat16):
        output = conv(ramp)
    torch.testing.assert_close(output.float(), ramp, atol=1e-2, rtol=0)
