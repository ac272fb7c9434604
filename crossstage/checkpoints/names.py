"""Tables that translate parameter names, both ways, between other libraries (theirs) and this one (ours)."""

import math
import re
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from crossstage.errors import InputError

TensorFunction = Callable[[Tensor], Tensor]


class NameTable:
    """Renames parameters by templates, both ways.

    Args:
        rules: pairs (theirs, ours), e.g. ("input_proj.{p}", "neck.conv.{p}"). `{i}` stands for a number, `{p}` for
            the rest of the name. The first rule that fits is used. Several rules may name the same parameter of ours
            (an alias in the other library); writing then saves it under each of their names.
        derived: triples (theirs, ours, make) for constants that only the other library saves. Reading ignores them;
            writing computes each as `make(tensor of ours)`.
        unread: templates of names that the other library saves but never reads; ignored both ways.
        reordered: triples (theirs, read, write) for tensors whose numbers stand in another order there: `read` puts a
            tensor of theirs in our order, and `write` one of ours in theirs.
        library: name of the other library.
    """

    def __init__(
        self,
        rules: Iterable[tuple[str, str]],
        *,
        derived: Iterable[tuple[str, str, TensorFunction]] = (),
        unread: Iterable[str] = (),
        reordered: Iterable[tuple[str, TensorFunction, TensorFunction]] = (),
        library: str = "detrex",
    ) -> None:
        self.rules, self.derived, self.library = tuple(rules), tuple(derived), library
        self._theirs = [(_pattern(theirs), ours) for theirs, ours in self.rules]
        self._ours = [(_pattern(ours), theirs) for theirs, ours in self.rules]
        self._left_out = [_pattern(theirs) for theirs in (*(theirs for theirs, _, _ in self.derived), *unread)]
        self._sources = [(_pattern(ours), theirs, make) for theirs, ours, make in self.derived]
        orders = [(_pattern(theirs), read, write) for theirs, read, write in reordered]
        self._read = [(pattern, read) for pattern, read, _ in orders]
        self._write = [(pattern, write) for pattern, _, write in orders]

    def is_left_out(self, name: str) -> bool:
        """Whether reading ignores this name of the other library, because it is derived or unread."""
        return any(pattern.fullmatch(spelled) for pattern in self._left_out for spelled in (name, f"backbone.{name}"))

    def native_name(self, name: str) -> str | None:
        """Our name for a name of theirs; None if no rule fits. The file of a backbone lacks the prefix "backbone."."""
        if self.is_left_out(name):
            return None
        for spelled in (name, f"backbone.{name}"):
            for pattern, ours in self._theirs:
                if found := pattern.fullmatch(spelled):
                    return _fill(ours, found)
        return None

    def foreign_names(self, name: str) -> list[str]:
        """Their names for a name of ours; several if their library has aliases."""
        return [_fill(theirs, found) for pattern, theirs in self._ours if (found := pattern.fullmatch(name))]

    def to_native(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename a state dict of theirs to ours. A name without a rule stays; loading will report it.

        Raises InputError if two aliases hold different tensors.
        """
        renamed: dict[str, Tensor] = {}
        for name, tensor in state.items():
            if self.is_left_out(name):
                continue
            native = self.native_name(name) or name
            tensor = _in_other_order(name, tensor, self._read)
            if native in renamed and not renamed[native].equal(tensor):
                raise InputError(f"{name} should be the same tensor as the one already read for {native}, but differs")
            renamed[native] = tensor
        return renamed

    def to_foreign(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename a state dict of ours to theirs, including aliases and derived constants.

        Raises InputError for a name without a rule.
        """
        renamed: dict[str, Tensor] = {}
        for name, tensor in state.items():
            foreign = self.foreign_names(name)
            if not foreign:
                raise InputError(f"no name for {name} in {self.library}'s checkpoints")
            renamed.update((alias, _in_other_order(alias, tensor, self._write)) for alias in foreign)
            for pattern, theirs, make in self._sources:
                if found := pattern.fullmatch(name):
                    renamed[_fill(theirs, found)] = make(tensor)
        return renamed


def _in_other_order(name: str, tensor: Tensor, orders: Iterable[tuple[re.Pattern[str], TensorFunction]]) -> Tensor:
    """Apply the first function whose pattern fits a name of theirs, which may lack the prefix "backbone."."""
    for pattern, reorder in orders:
        if pattern.fullmatch(name) or pattern.fullmatch(f"backbone.{name}"):
            return reorder(tensor)
    return tensor


def _pattern(template: str) -> re.Pattern[str]:
    escaped = re.escape(template).replace(r"\{i\}", r"(?P<i>\d+)").replace(r"\{p\}", r"(?P<p>.+)")
    return re.compile(escaped)


def _fill(template: str, found: re.Match[str]) -> str:
    return template.format(**found.groupdict())


def detectron2_resnet_rules(theirs: str = "backbone.", ours: str = "backbone.body.") -> list[tuple[str, str]]:
    """Rules from detectron2's ResNet names to timm's. The arguments are prefixes."""
    rules = [("stem.conv1.norm.{p}", "bn1.{p}"), ("stem.conv1.{p}", "conv1.{p}")]
    for stage in range(2, 6):
        block, timm_block = f"res{stage}.{{i}}", f"layer{stage - 1}.{{i}}"
        rules += [
            (f"{block}.shortcut.norm.{{p}}", f"{timm_block}.downsample.1.{{p}}"),
            (f"{block}.shortcut.{{p}}", f"{timm_block}.downsample.0.{{p}}"),
        ]
        for conv in range(1, 4):
            rules += [
                (f"{block}.conv{conv}.norm.{{p}}", f"{timm_block}.bn{conv}.{{p}}"),
                (f"{block}.conv{conv}.{{p}}", f"{timm_block}.conv{conv}.{{p}}"),
            ]
    return [(theirs + name, ours + native) for name, native in rules]


def detrex_swin_rules(theirs: str = "backbone.", ours: str = "backbone.") -> list[tuple[str, str]]:
    """Rules from detrex's Swin, which has a norm after each of its last three stages, to timm's in a `TimmBackbone`.

    detrex merges patches at the end of a stage, timm at the start of the next one. The order of the four merged
    patches, and that of queries, keys and values, is the same.
    """
    rules = [("patch_embed.{p}", "body.patch_embed.{p}"), ("layers.{i}.blocks.{p}", "body.layers_{i}.blocks.{p}")]
    for stage in range(3):
        rules += [
            (f"layers.{stage}.downsample.{{p}}", f"body.layers_{stage + 1}.downsample.{{p}}"),
            (f"norm{stage + 1}.{{p}}", f"norms.{stage}.{{p}}"),
        ]
    return [(theirs + name, ours + native) for name, native in rules]


def detrex_swin_derived(theirs: str = "backbone.", ours: str = "backbone.") -> list[tuple[str, str, TensorFunction]]:
    """Constants that detrex's Swin saves: the row of the bias table for each pair of tokens."""
    attention = "blocks.{p}.attn.relative_position_"
    return [(f"{theirs}layers.{{i}}.{attention}index", f"{ours}body.layers_{{i}}.{attention}bias_table", window_pairs)]


def window_pairs(bias_table: Tensor) -> Tensor:
    """Swin's `relative_position_index`: [(2W - 1)**2, heads] -> int64 [W*W, W*W] for windows of W x W tokens.

    The pair of the tokens (r, c) and (s, d) has the row (r - s + W - 1) * (2W - 1) + (c - d + W - 1) of the table
    (Liu et al., ICCV 2021, section 3.2).
    """
    reach = math.isqrt(bias_table.shape[0])
    side = torch.arange((reach + 1) // 2)
    row, column = (axis.flatten() for axis in torch.meshgrid(side, side, indexing="ij"))
    shift = len(side) - 1
    return (row[:, None] - row + shift) * reach + column[:, None] - column + shift


def detrex_layer_rules(theirs: str, ours: str, *, attentions: Iterable[str]) -> list[tuple[str, str]]:
    """Rules for the layers of a transformer.

    Args:
        theirs: prefix of a layer in detrex.
        ours: prefix of a layer here.
        attentions: our names of the attentions, in detrex's order.
    """
    rules = [(f"attentions.{index}.{{p}}", f"{name}.{{p}}") for index, name in enumerate(attentions)]
    rules += [
        ("ffns.0.layers.0.0.{p}", "ffn.layers.0.{p}"),
        ("ffns.0.layers.1.{p}", "ffn.layers.1.{p}"),
        ("ffns.0.activation.{p}", "ffn.activation.{p}"),
        ("ffns.0.layers.0.1.{p}", "ffn.activation.{p}"),
        ("norms.{p}", "norms.{p}"),
    ]
    return [(theirs + name, ours + native) for name, native in rules]


def detrex_deformable_rules() -> list[tuple[str, str]]:
    """Rules that detrex's Deformable-DETR, H-Deformable-DETR and DINO share, without heads and learned queries."""
    encoder, decoder = "encoder.layers.{i}.", "decoder.layers.{i}."
    return [
        ("neck.{p}", "neck.{p}"),
        ("transformer.level_embeds", "encoder.level_embeds"),
        *detrex_layer_rules("transformer." + encoder, encoder, attentions=["self_attn"]),
        *detrex_layer_rules("transformer." + decoder, decoder, attentions=["self_attn", "cross_attn"]),
        ("transformer.reference_points.{p}", "queries.source.reference_points.{p}"),
        ("transformer.enc_output.{p}", "queries.source.project.{p}"),
        ("transformer.enc_output_norm.{p}", "queries.source.norm.{p}"),
        ("transformer.pos_trans.{p}", "queries.source.embed_boxes.{p}"),
        ("transformer.pos_trans_norm.{p}", "queries.source.embed_norm.{p}"),
    ]


def detrex_head_rules(num_layers: int, *, shared: bool = False, two_stage: bool = True) -> list[tuple[str, str]]:
    """Rules for detrex's class and box heads. detrex saves those that the decoder uses a second time, as aliases.

    Args:
        num_layers: number of decoder layers.
        shared: whether all stages share one head.
        two_stage: whether the encoder has heads too; they follow those of the decoder.
    """
    rules = []
    for theirs, ours in (("class_embed", "class_head"), ("bbox_embed", "box_head")):
        in_decoder = two_stage or (ours == "box_head" and not shared)
        for prefix in ("", "transformer.decoder.") if in_decoder else ("",):
            if two_stage:
                rules.append((f"{prefix}{theirs}.{num_layers}.{{p}}", f"queries.source.{ours}.{{p}}"))
            for stage in range(num_layers):
                rules.append((f"{prefix}{theirs}.{stage}.{{p}}", f"decoder.{ours}s.{0 if shared else stage}.{{p}}"))
    return rules


def detrex_anchor_box_rules(*, torchvision_backbone: bool = False) -> list[tuple[str, str]]:
    """Rules that detrex's DAB-DETR and DN-DETR share. detrex saves the box head twice: on top and in the decoder.

    `torchvision_backbone` is for DC5 models, whose backbone detrex takes from torchvision.
    """
    backbone = [("backbone.body.{p}", "backbone.body.{p}")] if torchvision_backbone else detectron2_resnet_rules()
    encoder, decoder = "transformer.encoder.", "transformer.decoder."
    return [
        *backbone,
        ("input_proj.{p}", "neck.conv.{p}"),
        (f"{encoder}query_scale.{{p}}", "encoder.position_scale.{p}"),
        *detrex_layer_rules(f"{encoder}layers.{{i}}.", "encoder.layers.{i}.", attentions=["self_attn"]),
        *detrex_layer_rules(f"{decoder}layers.{{i}}.", "decoder.layers.{i}.", attentions=["self_attn", "cross_attn"]),
        (f"{decoder}ref_point_head.{{p}}", "decoder.query_positions.mlp.{p}"),
        (f"{decoder}query_scale.{{p}}", "decoder.sine_positions.scale.{p}"),
        (f"{decoder}ref_anchor_head.{{p}}", "decoder.sine_positions.size.{p}"),
        (f"{decoder}post_norm_layer.{{p}}", "decoder.norm.{p}"),
        ("anchor_box_embed.weight", "queries.source.anchors.weight"),
        ("class_embed.{p}", "decoder.class_head.{p}"),
        ("bbox_embed.{p}", "decoder.box_head.{p}"),
        (f"{decoder}bbox_embed.{{p}}", "decoder.box_head.{p}"),
    ]


def plain_into_grown(model: nn.Module, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Fit weights of a plain model to a model in which a larger part replaces a plain one (`with_dca`).

    The attribute `plain_part` of the larger part names its child that corresponds to the plain part.

    Args:
        model: the model with larger parts.
        state: weights of the plain model. Weights that already have the larger parts are returned unchanged.

    Returns:
        The weights under the names of `model`, and the names of the larger parts' tensors that `state` lacks.
    """
    fitted, added = dict(state), []
    for path, module in model.named_modules():
        child = getattr(module, "plain_part", None)
        own = [] if child is None else [f"{path}.{name}" for name in module.state_dict()]
        plain = [name for name in state if own and name.startswith(f"{path}.")]
        if not plain or not fitted.keys().isdisjoint(own):
            continue
        for name in plain:
            fitted[f"{path}.{child}.{name.removeprefix(f'{path}.')}"] = fitted.pop(name)
        added += [name for name in own if not name.startswith(f"{path}.{child}.")]
    return fitted, added


_FORMER_QUERIES = re.compile(r"^queries\.(?!source\.|extra\.)(denoising\.)?")


def with_current_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the parameters that an earlier version of this library named differently; all other names stay.

    Queries used to be one module that contained its denoising. `queries.X` is now `queries.source.X`, and
    `queries.denoising.X` is now `queries.extra.denoising.X`.
    """
    return {
        _FORMER_QUERIES.sub(lambda found: f"queries.{'extra.denoising' if found[1] else 'source'}.", name): value
        for name, value in state.items()
    }
