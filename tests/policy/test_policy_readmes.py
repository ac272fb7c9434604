"""Every `key=value` that a README prints is accepted by the config it is meant for, and the model builds with it.

A command says which config by `--config-file`, a line of text by the config's file name; otherwise it is the main
config of the README. A value `...` stands for any: only the key is checked. A table may abbreviate a path by a capital
that the text explains, as in: L is `model.criterion.labels`.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

import csla.detrex
import dca.detrex
from crossstage.config import LazyConfig, instantiate

ROOT = Path(__file__).resolve().parents[2]
MAIN = {  # README -> the config of what it says about keys, without a name
    "README.md": "dino_r50_4scale_12ep",
    "csla/README.md": "dino_r50_4scale_12ep_csla",
    "dca/README.md": "dino_r50_4scale_12ep_csla_dca",
    "projects/adamixer/README.md": "adamixer_r50_12ep",
    "projects/dab_detr/README.md": "dab_detr_r50_50ep",
    "projects/deformable_detr/README.md": "deformable_detr_r50_50ep",
    "projects/deqdet/README.md": "deqdet_r50_12ep",
    "projects/dino/README.md": "dino_r50_4scale_12ep",
    "projects/dn_detr/README.md": "dn_detr_r50_50ep",
    "projects/h_detr/README.md": "h_detr_r50_two_stage_12ep",
    "projects/paq_detr/README.md": "dino_r50_4scale_12ep_paq",
    "projects/stage_interactor/README.md": "stage_interactor_r50_12ep",
}
DETREX = "a config of detrex"  # what sections with the heading "In your detrex" are about
CODE = re.compile(r"```[^\n]*\n(?P<block>.*?)```|`(?P<span>[^`]+)`", re.DOTALL)
OVERRIDE = re.compile(r"[+~]{0,2}[A-Za-z]\w*(\.\w+)+=[^\s(]*")


@dataclass(frozen=True)
class Example:
    """Overrides printed together, and the config that they are meant for."""

    config: str
    overrides: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.config} {' '.join(self.overrides)}"


def examples(text: str, main: str) -> Iterator[Example]:
    """The overrides in the code blocks and code spans of a README, each command and each span by itself."""
    letters = dict(re.findall(r"\b([A-Z]) is\s+`([\w.]+)`", text))
    for code in CODE.finditer(text):
        heading = (re.findall(r"^#+ (.*)", text[: code.start()], re.MULTILINE) or [""])[-1]
        default = DETREX if "your detrex" in heading else main
        around = text[text.rfind("\n", 0, code.start()) + 1 : code.end()]
        lines = re.sub(r"\\\n", " ", code["block"]).splitlines() if code["block"] else [code["span"]]
        for line in lines:
            words = [re.sub(r"^(['\"])(.*)\1$", r"\2", word) for word in line.split()]
            overrides = tuple(_in_full(word, letters) for word in words if OVERRIDE.fullmatch(word))
            if overrides:
                yield Example(_config_named_in(line if code["block"] else around) or default, overrides)


def _in_full(override: str, letters: dict[str, str]) -> str:
    return re.sub(r"^([+~]*)([A-Z])(?=\.)", lambda found: found[1] + letters.get(found[2], found[2]), override)


def _config_named_in(text: str) -> str | None:
    names = re.findall(r"(\w+)\.py\b", text)
    return next((name for name in reversed(names) if name in _files()), None)


@cache
def _files() -> dict[str, Path]:
    return {path.stem: path for path in ROOT.glob("projects/*/configs/*.py")}


@cache
def _loaded(config: str) -> DictConfig:
    if config != DETREX:
        return LazyConfig.load(_files()[config])
    decoder = {"_target_": "detrex.Decoder", "embed_dim": 256, "num_layers": 6}
    model = OmegaConf.create({"transformer": {"decoder": decoder}, "criterion": {"_target_": "detrex.SetCriterion"}})
    return OmegaConf.create({"model": dca.detrex.with_dca(csla.detrex.with_csla(model))}, flags={"allow_objects": True})


PRINTED = sorted(
    {example for readme, main in MAIN.items() for example in examples((ROOT / readme).read_text(), main)}, key=str
)


def test_every_readme_has_a_main_config():
    readmes = [
        ROOT / "README.md",
        *(path for folder in ("csla", "dca", "projects/*") for path in ROOT.glob(f"{folder}/README.md")),
    ]
    assert {path.relative_to(ROOT).as_posix() for path in readmes} == set(MAIN)
    assert set(MAIN.values()) <= set(_files())


@pytest.mark.parametrize("example", PRINTED, ids=str)
def test_a_printed_override_is_accepted_and_builds(example: Example):
    config = copy.deepcopy(_loaded(example.config))
    for override in example.overrides:
        key, _, value = override.partition("=")
        LazyConfig.apply_overrides(config, [f"{key}={OmegaConf.select(config, key)}" if value == "..." else override])
    if example.config != DETREX and any("model." in override for override in example.overrides):
        config.model.backbone.pretrained = False
        with torch.device("meta"):
            instantiate(config.model)


def test_what_is_found_in_a_readme():
    text = """# A
By `model.a=1 train.b.c='x'`, see `dino_toy.py`: `model.d=2`; or `f(model.e=1)`, `norm=None`, `model.f=G(h=1)`.
## On the command line
L is `model.labels`, M is
`model.mixing`. | 7 | `L.a=0 +M.b=[1,2]`, 1 | `model.g=...` |
```
python tool.py --config-file projects/dino/configs/dino_toy_csla.py \\
    ~train.h= a=1
python tool.py train.i=2
```
## In your detrex
`model.criterion.csla.j=2`
"""
    assert list(examples(text, "main")) == [
        Example("main", ("model.a=1", "train.b.c='x'")),
        Example("dino_toy", ("model.d=2",)),
        Example("main", ("model.labels.a=0", "+model.mixing.b=[1,2]")),
        Example("main", ("model.g=...",)),
        Example("dino_toy_csla", ("~train.h=",)),
        Example("main", ("train.i=2",)),
        Example(DETREX, ("model.criterion.csla.j=2",)),
    ]
