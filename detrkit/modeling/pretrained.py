"""Weights of other libraries: two-way tables between their parameter names and ours."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from detrkit.errors import InputError


class NameTable:
    """Renames parameters by templates, both ways.

    rules: pairs (theirs, ours), e.g. ("neck.convs.{i}.conv.{p}", "neck.convs.{i}.conv.{p}"). `{i}` stands for a
    number, `{p}` for the rest of the name. The first rule that fits counts. Several rules may name the same
    parameter of ours (aliases in the other library): the first is the one to save under, all of them are saved.
    """

    def __init__(self, rules: Iterable[tuple[str, str]]) -> None:
        self.rules = tuple(rules)
        self._theirs = [(_pattern(theirs), ours) for theirs, ours in self.rules]
        self._ours = [(_pattern(ours), theirs) for theirs, ours in self.rules]

    def native_name(self, name: str) -> str | None:
        """Our name for one of theirs, or None where no rule fits. A backbone's own file lacks "backbone."."""
        for spelled in (name, f"backbone.{name}"):
            for pattern, ours in self._theirs:
                if found := pattern.fullmatch(spelled):
                    return _fill(ours, found)
        return None

    def foreign_names(self, name: str) -> list[str]:
        """Their names for one of ours; more than one where they keep aliases."""
        return [_fill(theirs, found) for pattern, theirs in self._ours if (found := pattern.fullmatch(name))]

    def to_native(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename a state dict of theirs to ours; names that no rule knows stay, to be reported when loading.

        Raises InputError where two of their aliases hold different tensors.
        """
        renamed: dict[str, Tensor] = {}
        for name, tensor in state.items():
            native = self.native_name(name) or name
            if native in renamed and not renamed[native].equal(tensor):
                raise InputError(f"{name} should be the same tensor as the one already read for {native}, but differs")
            renamed[native] = tensor
        return renamed

    def to_foreign(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename a state dict of ours to theirs, aliases included. Raises InputError for a name without a rule."""
        renamed = {}
        for name, tensor in state.items():
            foreign = self.foreign_names(name)
            if not foreign:
                raise InputError(f"no name for {name} in the other library's checkpoints")
            renamed.update(dict.fromkeys(foreign, tensor))
        return renamed


def _pattern(template: str) -> re.Pattern[str]:
    escaped = re.escape(template).replace(r"\{i\}", r"(?P<i>\d+)").replace(r"\{p\}", r"(?P<p>.+)")
    return re.compile(escaped)


def _fill(template: str, found: re.Match[str]) -> str:
    return template.format(**found.groupdict())


def detectron2_resnet_rules(theirs: str = "backbone.", ours: str = "backbone.body.") -> list[tuple[str, str]]:
    """detectron2's ResNet names against timm's: rules for NameTable."""
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


def detrex_layer_rules(theirs: str, ours: str, *, attentions: Iterable[str]) -> list[tuple[str, str]]:
    """Rules for the layers of a transformer. theirs, ours: prefixes of a layer; attentions: ours, in detrex's order."""
    rules = [(f"attentions.{index}.{{p}}", f"{name}.{{p}}") for index, name in enumerate(attentions)]
    rules += [
        ("ffns.0.layers.0.0.{p}", "ffn.layers.0.{p}"),
        ("ffns.0.layers.1.{p}", "ffn.layers.1.{p}"),
        ("ffns.0.activation.{p}", "ffn.activation.{p}"),
        ("ffns.0.layers.0.1.{p}", "ffn.activation.{p}"),
        ("norms.{p}", "norms.{p}"),
    ]
    return [(theirs + name, ours + native) for name, native in rules]
