"""The state_dict of every config at full size, pinned: a renamed or reshaped tensor would orphan everyone's weights.

`python -m tests.pinned_names` rewrites the file and prints which part of which config changed. Give the old names
a rule (`projects/<detector>/checkpoint.py`) before a change of what is there.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import nn

from crossstage.config import LazyConfig, instantiate
from crossstage.config.source import files_run_once
from tests.tiny_models import config_files, plain, without_csla

PINNED = Path(__file__).parent / "projects/data/pinned_names.txt"


_KNOWN: dict[str, dict[str, str]] = {}  # by the text of a model's node


def found(model: DictConfig) -> dict[str, str]:
    """`<number of tensors>:<hash of their names and shapes>` of each part of a model, built on no memory.

    Equal nodes are built once; CSLA, which has no weights, does not count.
    """
    node = without_csla(model)
    node.backbone.pretrained = False
    text = str(plain(node))
    if text not in _KNOWN:
        with torch.device("meta"):
            _KNOWN[text] = by_part(instantiate(node))
    return _KNOWN[text]


def by_part(detector: nn.Module) -> dict[str, str]:
    """The same of a model that is built."""
    parts = defaultdict(list)
    for name, value in detector.state_dict().items():
        parts[name.split(".")[0]].append(f"{name} {tuple(value.shape)}")
    return {
        part: f"{len(names)}:{hashlib.sha256(' '.join(sorted(names)).encode()).hexdigest()[:12]}"
        for part, names in parts.items()
    }


def pinned() -> dict[str, dict[str, str]]:
    """What the file says, by config."""
    lines = (line.split() for line in PINNED.read_text().splitlines()) if PINNED.exists() else ()
    return {name: dict(part.split("=") for part in parts) for name, *parts in lines}


def changes(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Each part that differs, as `<part>: <before> -> <after>`."""
    parts = [*before, *(part for part in after if part not in before)]
    values = [(part, before.get(part), after.get(part)) for part in parts]
    return [f"{part}: {old} -> {new}" for part, old, new in values if old != new]


def main() -> None:
    """Write the file, print the changes."""
    with files_run_once():
        old, new = pinned(), {path.stem: found(LazyConfig.load(str(path)).model) for path in config_files()}
    for name in [*new, *(name for name in old if name not in new)]:
        for change in changes(old.get(name, {}), new.get(name, {})):
            print(f"{name}  {change}")
    lines = (" ".join([name, *(f"{part}={value}" for part, value in parts.items())]) for name, parts in new.items())
    PINNED.parent.mkdir(exist_ok=True)
    PINNED.write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main()
