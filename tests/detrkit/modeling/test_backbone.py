"""Backbones of other kinds than a ResNet's: any image size, one layout of the maps, norms behind them."""

import pytest
import torch
from torch import Tensor

from detrkit.config import LazyCall as L
from detrkit.config import instantiate
from detrkit.modeling.backbone import TimmBackbone

SWIN = {"name": "swin_tiny_patch4_window7_224", "pretrained": False, "frozen_norm": False, "frozen_stages": 0}
TINY = {"embed_dim": 12, "depths": (1, 2, 2, 2), "num_heads": (1, 2, 3, 4)}


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
