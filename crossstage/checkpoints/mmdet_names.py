"""mmdetection's names of the AdaMixer family against ours: tables with a ResNet or a Swin."""

from collections.abc import Iterable

from torch import Tensor

from crossstage.checkpoints.names import NameTable, window_pairs

MIXER_STAGES = (
    ("roi_head.bbox_head.{i}.", "decoder.layers.{i}.", "decoder.class_heads.{i}.", "decoder.box_heads.{i}."),
)
"""mmdetection's prefix of a stage, and ours of its layer and heads, in a decoder of stages with their own weights."""


def mmdet_mixer_names(rules: Iterable[tuple[str, str]], *, unread: Iterable[str] = ()) -> NameTable:
    """A table of these rules and those of both backbones. rules: `mmdet_mixer_rules` and what one detector adds.

    unread: templates of names that the released files hold and nothing reads.
    """
    attention = "blocks.{p}.attn"
    merging = [f"backbone.stages.{{i}}.downsample.{name}" for name in ("norm.{p}", "reduction.{p}")]
    return NameTable(
        [*mmdet_resnet_rules(), *mmdet_swin_rules(), *rules],
        derived=[
            (
                f"backbone.stages.{{i}}.{attention}.w_msa.relative_position_index",
                f"backbone.body.layers_{{i}}.{attention}.relative_position_bias_table",
                window_pairs,
            )
        ],
        reordered=[(name, neighbours_first, channels_first) for name in merging],
        unread=unread,
        library="mmdet",
    )


def mmdet_resnet_rules() -> list[tuple[str, str]]:
    """Rules for mmdetection's ResNet, whose names are timm's."""
    return [(f"backbone.{part}.{{p}}", f"backbone.body.{part}.{{p}}") for part in ("conv1", "bn1", "layer{i}")]


def mmdet_swin_rules() -> list[tuple[str, str]]:
    """Rules from mmdetection's Swin, which has a norm after each of its four stages, to timm's in a `TimmBackbone`.

    mmdetection merges patches at the end of a stage, timm at the start of the next one, and in another order of the
    merged numbers: see `neighbours_first`.
    """
    block = {
        "norm1.{p}": "norm1.{p}",
        "norm2.{p}": "norm2.{p}",
        "attn.w_msa.{p}": "attn.{p}",
        "ffn.layers.0.0.{p}": "mlp.fc1.{p}",
        "ffn.layers.1.{p}": "mlp.fc2.{p}",
    }
    rules = [
        ("patch_embed.projection.{p}", "body.patch_embed.proj.{p}"),
        ("patch_embed.norm.{p}", "body.patch_embed.norm.{p}"),
        ("norm{i}.{p}", "norms.{i}.{p}"),
    ]
    for stage in range(4):
        theirs, ours = f"stages.{stage}.blocks.{{i}}.", f"body.layers_{stage}.blocks.{{i}}."
        rules += [(theirs + name, ours + native) for name, native in block.items()]
        rules.append((f"stages.{stage}.downsample.{{p}}", f"body.layers_{stage + 1}.downsample.{{p}}"))
    return [(f"backbone.{name}", f"backbone.{native}") for name, native in rules]


def neighbours_first(merged: Tensor) -> Tensor:
    """From mmdetection's order of 2 x 2 merged patches, channel by channel, to timm's, patch by patch.

    Args:
        merged: [..., 4 * C]: for each channel the patches (row, column) = (0, 0), (0, 1), (1, 0), (1, 1).

    Returns:
        [..., 4 * C]: all channels of patch (0, 0), then of (1, 0), (0, 1) and (1, 1).
    """
    return merged.unflatten(-1, (-1, 4)).transpose(-1, -2)[..., [0, 2, 1, 3], :].flatten(-2)


def channels_first(merged: Tensor) -> Tensor:
    """The inverse of `neighbours_first`. merged: [..., 4 * C]."""
    return merged.unflatten(-1, (4, -1))[..., [0, 2, 1, 3], :].transpose(-1, -2).flatten(-2)


def mmdet_mixer_rules(
    stages: Iterable[tuple[str, str, str, str]] = MIXER_STAGES,
    *,
    neck: str = "lateral_convs",
    content: str = "init_content_features",
) -> list[tuple[str, str]]:
    """What mmdetection's AdaMixer family shares beyond the backbone: neck, queries, attention, heads.

    stages: prefixes as in MIXER_STAGES.  neck, content: the names of the neck's convolutions and of the contents.
    """
    layer = {
        "iof_tau": "attention.overlap_scale",
        "attention.attn.in_proj_weight": "attention.qkv.weight",
        "attention.attn.in_proj_bias": "attention.qkv.bias",
        "attention.attn.out_proj.{p}": "attention.out_proj.{p}",
        "attention_norm.{p}": "attention_norm.{p}",
        "ffn.layers.0.0.{p}": "ffn.layers.0.{p}",
        "ffn.layers.1.{p}": "ffn.layers.1.{p}",
        "ffn_norm.{p}": "ffn_norm.{p}",
    }
    rules = [
        (f"neck.{neck}.{{i}}.conv.{{p}}", "neck.convs.{i}.conv.{p}"),
        ("neck.gn_out.{p}", "neck.norm.{p}"),
        (f"rpn_head.{content}.weight", "queries.source.content.weight"),
    ]
    for theirs, ours, *heads in stages:
        rules += [(theirs + name, ours + native) for name, native in layer.items()]
        for mmdet, head in zip(("cls", "reg"), heads, strict=True):
            rules += [(f"{theirs}{mmdet}_fcs.{n}.{{p}}", f"{head}{n}.{{p}}") for n in (0, 1)]
            rules.append((f"{theirs}fc_{mmdet}.{{p}}", f"{head}3.{{p}}"))
    return rules


def mmdet_adaptive_mixing_rules(stages: Iterable[tuple[str, str, str, str]] = MIXER_STAGES) -> list[tuple[str, str]]:
    """AdaMixer's sampling and mixing, which DEQDet has too. stages: prefixes as in MIXER_STAGES."""
    names = {
        "norm.{p}": "mixing_norm.{p}",
        "sampling_offset_generator.0.{p}": "sampler.offsets.{p}",
        "adaptive_mixing.parameter_generator.0.{p}": "mixing.filters.{p}",
        "adaptive_mixing.out_proj.{p}": "mixing.project.{p}",
    }
    return [
        (f"{theirs}sampling_n_mixing.{name}", ours + native)
        for theirs, ours, *_ in stages
        for name, native in names.items()
    ]
