"""Backbones of other kinds than a ResNet's: any image size, one layout of the maps, norms after them."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops.misc import FrozenBatchNorm2d

from crossstage.config import LazyCall as L
from crossstage.config import instantiate
from crossstage.errors import InputError
from crossstage.layers.deform_conv import ModulatedDeformConv2d
from crossstage.modeling.backbone import DeformableStages, FixedStatistics, OneKernelNorm2d, TimmBackbone

SWIN = {"name": "swin_tiny_patch4_window7_224", "pretrained": False, "frozen_norm": False, "frozen_stages": 0}
TINY = {"embed_dim": 12, "depths": (1, 2, 2, 2), "num_heads": (1, 2, 3, 4)}
RESNEXT = {
    "layers": (1, 2, 1, 1),
    "channels": (8, 8, 16, 16),
    "cardinality": 4,
    "base_width": 32,
    "zero_init_last": False,
}


def resnext(**options) -> TimmBackbone:
    torch.manual_seed(0)
    given = {"pretrained": False, "strides": [4, 8, 16, 32], "frozen_norm": False, "options": RESNEXT}
    return TimmBackbone("resnext50_32x4d", **{**given, **options})


def swin(**options) -> TimmBackbone:
    torch.manual_seed(0)
    return TimmBackbone(**{**SWIN, "options": TINY, **options})


def image(height: int, width: int) -> tuple[Tensor, Tensor]:
    return torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8), torch.zeros(1, height, width).bool()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("height", "width"), [(224, 224), (97, 133), (50, 84), (16, 16), (33, 400), (1, 1)])
def test_a_swin_takes_any_size_and_returns_channels_first(height: int, width: int, training: bool):
    backbone = swin(output_norm=True).train(training)
    maps = backbone(*image(height, width))
    assert (backbone.strides, backbone.channels) == ((8, 16, 32), (24, 48, 96))
    expected = [(1, c, -(-height // s), -(-width // s)) for c, s in zip((24, 48, 96), (8, 16, 32), strict=True)]
    assert [tuple(level.shape) for level in maps] == expected
    assert all(level.isfinite().all() for level in maps)


def test_a_swin_has_a_map_of_stride_four():
    maps = swin(strides=[32, 4])(*image(64, 96))
    assert [tuple(level.shape[1:]) for level in maps] == [(12, 16, 24), (96, 2, 3)]


def test_the_filling_up_to_whole_patches_is_padding():
    """97 x 133 pixels, and the same with masked noise up to whole patches: the same maps."""
    backbone = swin().eval()
    pixels, mask = image(100, 136)
    mask[:, 97:], mask[:, :, 133:] = True, True
    for filled, given in zip(backbone(pixels[..., :97, :133], mask[:, :97, :133]), backbone(pixels, mask), strict=True):
        torch.testing.assert_close(filled, given)


def test_every_stage_shifts_its_windows_whatever_the_pretrainings_size():
    """At 224 pixels timm's last stage is one window and never shifts; images for detection are larger than that."""
    for stage in range(1, 4):
        first, second = getattr(swin().body, f"layers_{stage}").blocks
        assert (first.window_size, first.shift_size) == ((7, 7), (0, 0))
        assert (second.window_size, second.shift_size) == ((7, 7), (3, 3))


def test_a_swins_sizes_may_come_from_a_config():
    """torch.split, by which timm deals out the drop path, takes no ListConfig."""
    options = {key: list(value) if isinstance(value, tuple) else value for key, value in TINY.items()}
    backbone = instantiate(L(TimmBackbone)(**SWIN, options={**options, "drop_path_rate": 0.2}))
    assert backbone.state_dict().keys() == swin().state_dict().keys()


def test_gradients_reach_every_parameter_of_a_swin():
    backbone = swin(output_norm=True).train()
    sum((level * torch.randn_like(level)).sum() for level in backbone(*image(97, 133))).backward()
    assert not [name for name, p in backbone.named_parameters() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize(
    ("stages", "frozen"), [(0, "none"), (1, "patch_embed"), (2, ("patch_embed", "layers_0")), (5, ("patch", "layers"))]
)
def test_frozen_stages_of_a_swin_are_the_patches_then_each_stage(stages: int, frozen: str | tuple[str, ...]):
    backbone = swin(frozen_stages=stages, output_norm=True)
    for name, parameter in backbone.body.named_parameters():
        assert parameter.requires_grad != name.startswith(frozen), name
    assert all(parameter.requires_grad for parameter in backbone.norms.parameters())


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "resnet18"])
def test_output_norms_are_over_the_channels_of_each_map(name: str):
    options = TINY if "swin" in name else {"channels": [8, 8, 16, 16]}
    torch.manual_seed(0)
    plain = TimmBackbone(name, pretrained=False, options=options).eval()
    normed = TimmBackbone(name, pretrained=False, options=options, output_norm=True).eval()
    assert not normed.load_state_dict(plain.state_dict(), strict=False).unexpected_keys
    given = image(64, 96)
    for before, after in zip(plain(*given), normed(*given), strict=True):
        centred = before - before.mean(1, keepdim=True)
        expected = centred / (before.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        torch.testing.assert_close(after, expected, atol=1e-4, rtol=1e-4)


def test_a_resnet_has_no_parameter_more_than_before():
    with torch.device("meta"):
        names = {name.removeprefix("body.") for name in TimmBackbone(pretrained=False).state_dict()}
    assert len(names) == 5 * 53  # 53 convolutions, each with a frozen norm of four tensors
    assert all(name.startswith(("conv1.", "bn1.", "layer")) for name in names)


def test_resnext_101_with_deformable_convolutions_has_the_parameters_of_mmdets():
    """ResNeXt-101-32x4d without its classifier, and 27 channels of offsets for each 3x3 convolution in c3-c5."""
    with torch.device("meta"):
        plain = TimmBackbone("resnext101_32x4d", pretrained=False)
        deformable = TimmBackbone("resnext101_32x4d", pretrained=False, edits=[DeformableStages()])
    shapes = {name: tuple(value.shape) for name, value in deformable.state_dict().items()}
    added = {name: shape for name, shape in shapes.items() if ".conv_offset." in name}
    assert shapes.keys() - added.keys() == plain.state_dict().keys()
    blocks = {f"layer{stage}.{block}" for stage, depth in ((2, 4), (3, 23), (4, 3)) for block in range(depth)}
    assert {name.removeprefix("body.").split(".conv2")[0] for name in added} == blocks
    assert shapes["body.layer3.7.conv2.conv_offset.weight"] == (27, 512, 3, 3)
    assert shapes["body.layer3.7.conv2.weight"] == (512, 16, 3, 3)  # 32 groups
    counts = [sum(value.numel() for value in part.body.parameters()) for part in (plain, deformable)]
    assert counts[1] - counts[0] == 27 * (4 * 2305 + 23 * 4609 + 3 * 9217)


def test_deformable_stages_begin_as_half_of_each_plain_convolution():
    plain, deformable = resnext().eval(), resnext(edits=[DeformableStages([2, 3, 4])]).eval()
    deformable.load_state_dict(plain.state_dict(), strict=False)
    for module in deformable.modules():
        if isinstance(module, ModulatedDeformConv2d):
            nn.init.constant_(module.conv_offset.bias[-9:], 40.0)  # masks of 1
    given = image(64, 96)
    for ours, expected in zip(deformable(*given), plain(*given), strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


def test_deformable_stages_keep_strides_and_train():
    backbone = resnext(edits=[DeformableStages([3])]).train()
    maps = backbone(*image(65, 97))
    assert [tuple(level.shape[2:]) for level in maps] == [(17, 25), (9, 13), (5, 7), (3, 4)]
    sum(level.square().sum() for level in maps).backward()
    assert backbone.body.layer3[0].conv2.conv_offset.weight.grad.any()
    assert not isinstance(backbone.body.layer2[0].conv2, ModulatedDeformConv2d)


@pytest.mark.parametrize("name", ["resnext50_32x4d", "swin_tiny_patch4_window7_224"])
def test_a_stage_without_a_3x3_convolution_is_named(name: str):
    stage = 5 if name.startswith("resnext") else 2
    with pytest.raises(InputError, match=f"stage {stage} of .* has no 3x3"), torch.device("meta"):
        TimmBackbone(name, pretrained=False, edits=[DeformableStages([stage])])


def test_fixed_statistics_do_not_move_while_scale_and_shift_train_behind_the_frozen_stages():
    backbone = resnext(edits=[FixedStatistics()], frozen_stages=2).train()
    before = {name: value.clone() for name, value in backbone.named_buffers()}
    given = image(64, 64)
    maps = backbone(*given)
    sum(level.square().sum() for level in maps).backward()
    assert all(torch.equal(value, before[name]) for name, value in backbone.named_buffers())
    assert all(torch.equal(*pair) for pair in zip(maps, backbone.eval()(*given), strict=True))
    norms = {name: value for name, value in backbone.body.named_parameters() if "bn" in name}
    assert all(value.requires_grad != name.startswith(("bn1", "layer1")) for name, value in norms.items())
    assert norms["layer2.0.bn2.weight"].grad.any() and norms["layer4.0.bn3.bias"].grad.any()


def test_fixed_statistics_keep_the_names_and_values():
    plain, fixed = resnext(), resnext(edits=[FixedStatistics()])
    assert plain.state_dict().keys() == fixed.state_dict().keys()
    for norm in (module for module in plain.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.normal_(norm.weight)
    fixed.load_state_dict(plain.state_dict())
    given = image(64, 64)
    assert all(torch.equal(*pair) for pair in zip(plain.eval()(*given), fixed.train()(*given), strict=True))


def test_fixed_statistics_of_a_network_without_batch_norms_are_refused():
    with pytest.raises(InputError, match=r"no nn\.BatchNorm2d"), torch.device("meta"):
        TimmBackbone("swin_tiny_patch4_window7_224", pretrained=False, edits=[FixedStatistics()])


def test_edits_may_come_from_a_config():
    node = L(TimmBackbone)(
        name="resnext50_32x4d",
        pretrained=False,
        frozen_norm=False,
        options=RESNEXT,
        edits=[L(FixedStatistics)(), L(DeformableStages)(stages=[4])],
    )
    backbone = instantiate(node)
    assert isinstance(backbone.body.layer4[0].conv2, ModulatedDeformConv2d)
    assert not backbone.train().body.layer4[0].bn1.training


def test_a_frozen_resnet_without_pretraining_has_open_residual_branches():
    """timm zeroes the last norm of each branch, which only a trained norm would open."""
    options = {"layers": [1, 1, 1, 1], "channels": [4, 4, 4, 4]}
    backbone = TimmBackbone("resnet18", strides=[8], pretrained=False, frozen_norm=True, options=options)
    backbone(torch.rand(1, 3, 32, 32) * 255, torch.zeros(1, 32, 32, dtype=torch.bool))[0].sum().backward()
    assert backbone.body.layer2[0].conv1.weight.grad.abs().sum() > 0


def test_a_frozen_norm_has_torchvisions_values_and_keeps_half_precision():
    """torchvision's own turns bfloat16 into float32, and with it all features of the backbone."""
    theirs = FrozenBatchNorm2d(6)
    for constant in (theirs.weight, theirs.bias, theirs.running_mean, theirs.running_var):
        constant.uniform_(0.5, 2)
    ours, features = OneKernelNorm2d.like(theirs), torch.randn(2, 6, 3, 3, requires_grad=True)
    assert ours.state_dict().keys() == theirs.state_dict().keys() and not list(ours.parameters())
    slope = torch.randn_like(features)
    found, expected = (
        (norm(features), *torch.autograd.grad(norm(features), features, slope)) for norm in (ours, theirs)
    )
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    backbone = TimmBackbone("resnet18", pretrained=False)
    with torch.autocast("cpu", torch.bfloat16):
        maps = backbone(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.zeros(1, 32, 32, dtype=torch.bool))
    assert {level.dtype for level in maps} == {torch.bfloat16}
