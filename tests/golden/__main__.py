"""`python -m tests.golden FOLDER...`: compare our modules with the reference's tensors and print a table.

Without folders: all public ones, `../shared/golden` if it is there, else the copy in `tests/golden/data`. Exit
status 0 only if every tensor holds.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import torch

from tests.golden import (
    csla_kind,
    dab_detr_kind,
    deformable_detr_kind,
    deqdet_kind,
    dino_kind,
    layers_kind,
    mixer_init_kind,
    mixer_kind,
    mixer_parts_kind,
)
from tests.golden.folder import GoldenFolder, Row

KINDS = {
    "dino": dino_kind.compare,
    "dab_detr": dab_detr_kind.compare_dab_detr,
    "dn_detr": dab_detr_kind.compare_dn_detr,
    "deformable_detr": deformable_detr_kind.compare_deformable_detr,
    "h_deformable_detr": deformable_detr_kind.compare_h_detr,
    "layers": layers_kind.compare,
    "csla": csla_kind.compare,
    "adamixer": mixer_kind.compare_adamixer,
    "stageinteractor": mixer_kind.compare_stage_interactor,
    "deqdet": deqdet_kind.compare_deqdet,
    "rnndet": deqdet_kind.compare_deqdet,
    "ffndet": deqdet_kind.compare_ffndet,
    "init_stats_mixers": mixer_init_kind.compare,
    **dict.fromkeys(mixer_parts_kind.CHECKS, mixer_parts_kind.compare),
}
ROOT = Path(__file__).resolve().parents[2]


def kind_of(path: Path) -> str | None:
    """The kind of a folder by its name, any suffix aside: `csla_two_classes` -> `csla`; None if nobody knows it."""
    return next((kind for kind in KINDS if re.fullmatch(rf"{kind}(_.*)?", path.name)), None)


def public_folders() -> list[Path]:
    """The folders of known kinds next to the project, or else the slim copies inside it."""
    shared = ROOT.parent / "shared" / "golden"
    root = shared if shared.is_dir() else Path(__file__).parent / "data"
    return sorted(path for path in root.iterdir() if path.is_dir() and kind_of(path))


def compare(path: Path) -> list[Row]:
    """All comparisons of one folder. Raises KeyError for an unknown kind."""
    with torch.random.fork_rng(devices=[]):
        return KINDS[kind_of(path)](GoldenFolder(path))


def main(arguments: list[str] | None = None) -> int:
    """Print the table; the number of folders that do not hold decides the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__.split("\n\n")[0])
    parser.add_argument("folders", nargs="*", type=Path, help="golden folders; none = all public ones of known kinds")
    parser.add_argument("--quiet", action="store_true", help="one line a folder, and the tensors that fail")
    options = parser.parse_args(arguments)
    torch.set_default_dtype(torch.float64)
    failures = 0
    print("folder | tensor | max abs error | tolerance | ok")
    for path in options.folders or public_folders():
        path = path.resolve()
        if kind_of(path) is None:
            print(f"{path.name} | unknown kind; known: {', '.join(KINDS)} | - | - | NO")
            failures += 1
            continue
        rows = compare(path)
        for row in rows:
            if not options.quiet or not row.ok:
                print(f"{path.name} | {row.name} | {row.error:.1e} | {row.tolerance:.0e} | {'ok' if row.ok else 'NO'}")
        bad = sum(not row.ok for row in rows)
        failures += bad > 0
        print(f"{path.name} | {len(rows)} tensors | {max(row.error for row in rows):.1e} | - | {'NO' if bad else 'ok'}")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
