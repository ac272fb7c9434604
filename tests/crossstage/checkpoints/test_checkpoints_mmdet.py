"""The names of mmdetection's Swin-S are ours in every config that may load it."""

import pytest
import torch
from omegaconf import OmegaConf

from crossstage.config import LazyConfig, find_config, instantiate

DEPTHS, WIDTHS, HEADS, WINDOW = (2, 2, 18, 2), (96, 192, 384, 768), (3, 6, 12, 24), 7
CONFIGS = (
    "adamixer_swin_small_300q_36ep",
    "stage_interactor_swin_small_300q_36ep",
    "deqdet_swin_small_300q_24ep",
    "deqdet_swin_small_64points_300q_24ep",
)


def mmdet_swin_small() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the Swin-S in the released checkpoints."""
    shapes: dict[str, tuple[int, ...]] = {"patch_embed.projection.weight": (96, 3, 4, 4)}

    def add(name: str, width: int, *, inputs: int | None = None) -> None:
        shapes[f"{name}.weight"] = (width,) if inputs is None else (width, inputs)
        shapes[f"{name}.bias"] = (width,)

    shapes["patch_embed.projection.bias"] = (96,)
    add("patch_embed.norm", 96)
    for stage, (depth, width, heads) in enumerate(zip(DEPTHS, WIDTHS, HEADS, strict=True)):
        for block in range(depth):
            prefix = f"stages.{stage}.blocks.{block}."
            shapes[f"{prefix}attn.w_msa.relative_position_bias_table"] = ((2 * WINDOW - 1) ** 2, heads)
            shapes[f"{prefix}attn.w_msa.relative_position_index"] = (WINDOW**2, WINDOW**2)
            for name, outputs, inputs in (
                ("norm1", width, None),
                ("attn.w_msa.qkv", 3 * width, width),
                ("attn.w_msa.proj", width, width),
                ("norm2", width, None),
                ("ffn.layers.0.0", 4 * width, width),
                ("ffn.layers.1", width, 4 * width),
            ):
                add(prefix + name, outputs, inputs=inputs)
        if stage < 3:
            add(f"stages.{stage}.downsample.norm", 4 * width)
            shapes[f"stages.{stage}.downsample.reduction.weight"] = (2 * width, 4 * width)
        add(f"norm{stage}", width)
    return {f"backbone.{name}": shape for name, shape in shapes.items()}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_name_of_the_released_swin_is_one_of_ours_and_back(name: str):
    config = LazyConfig.load(find_config(name))
    table = instantiate(config.train.checkpoint_names)
    with torch.device("meta"):
        backbone = instantiate(OmegaConf.merge(config.model.backbone, {"pretrained": False}))
    ours = {f"backbone.{key}": tensor for key, tensor in backbone.state_dict().items()}
    theirs = table.to_foreign(ours)
    assert {key: tuple(tensor.shape) for key, tensor in theirs.items()} == mmdet_swin_small()
    back = table.to_native(theirs)
    assert {key: tensor.shape for key, tensor in back.items()} == {key: tensor.shape for key, tensor in ours.items()}
