"""Folder `init_stats_mixers`: what the parameters of a stage are like before training, at official sizes.

Constants must agree exactly; what is drawn at random must agree in mean, deviation and bounds as far as two draws of so
many numbers do.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from crossstage.projects.adamixer.checkpoint import mmdet_adamixer_names
from crossstage.projects.deqdet.checkpoint import mmdet_deqdet_names
from crossstage.projects.stage_interactor.checkpoint import mmdet_stage_interactor_names
from omegaconf import DictConfig
from torch import Tensor

from crossstage.checkpoints.names import NameTable
from crossstage.config import LazyConfig
from crossstage.config.stages import StageFactory
from tests.golden.folder import GoldenFolder, Row
from tests.golden.mixer_kind import UNREAD

PROJECTS = Path(__file__).resolve().parents[2] / "projects"
MODELS = {
    "adamixer": ("adamixer/configs/models/adamixer_r50.py", mmdet_adamixer_names()),
    "stageinteractor": ("stage_interactor/configs/models/stage_interactor_r50.py", mmdet_stage_interactor_names()),
    "deqdet": ("deqdet/configs/models/deqdet_r50.py", mmdet_deqdet_names()),
}


def compare(folder: GoldenFolder) -> list[Row]:
    """Every parameter of every stage of the detectors that we have."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)  # the reference's constants are
    torch.manual_seed(0)
    try:
        return [row for name in MODELS for row in _rows(folder.path / f"{name}.json", *MODELS[name])]
    finally:
        torch.set_default_dtype(dtype)


def _rows(path: Path, config: str, table: NameTable) -> list[Row]:
    if not path.exists():
        return []
    rows, stages = [], json.loads(path.read_text())["stats"]
    for stage, expected in stages.items():
        if not isinstance(expected, dict):
            continue
        ours = stage_parameters(LazyConfig.load(PROJECTS / config).model, stage, table)
        label = f"{path.stem}.{stage}."
        for name in ours.keys() ^ {name for name in expected if not any(part in name for part in UNREAD)}:
            rows.append(Row(f"{label}{name} (on one side alone)", float("inf"), 0.0))
        for name in ours.keys() & expected:
            rows += [
                Row(label + row.name, row.error, row.tolerance) for row in _compared(name, ours[name], expected[name])
            ]
        if details := stages.get(f"{stage}_fine_offset_bias"):
            theirs = torch.tensor(details) == 0
            same = (ours["feat_extractor.gen_double_d.0.bias"].view(-1, 3) == 0).equal(theirs)
            rows.append(Row(f"{label}fine_offset_bias zeros", float(not same), 0.0))
    return rows


def stage_parameters(model: DictConfig, stage: str, table: NameTable) -> dict[str, Tensor]:
    """A stage's layer and heads, built alone, by the reference's names.

    stage: `stage2`; or `stage_P64` and, where stages share their weights, `layer_P64` for points.
    """
    shared, by_points, number = re.fullmatch(r"(?:stage|(layer))(_P)?(\d+)", stage).groups()
    index = 0 if by_points else int(number)
    step = model.decoder.initial if shared else model.decoder
    if by_points:
        step.layer.sampler.num_points = int(number)
    names = ("layer", "class_head", "box_head")
    parts = {(f"decoder.initial.{name}" if shared else f"decoder.{name}s.{index}"): step[name] for name in names}
    return {
        table.foreign_names(f"{prefix}.{name}")[0].removeprefix(f"roi_head.bbox_head.{index}."): parameter.detach()
        for prefix, node in parts.items()
        for name, parameter in StageFactory(node)(index).named_parameters()
    }


def _compared(name: str, ours: Tensor, theirs: dict) -> list[Row]:
    if list(ours.shape) != theirs["shape"]:
        return [Row(f"{name} {tuple(ours.shape)} != {tuple(theirs['shape'])}", float("inf"), 0.0)]
    ours = ours.double()
    if "constant" in theirs:
        return [Row(f"{name} constant", float((ours - theirs["constant"]).abs().max()), 0.0)]
    count, extent = ours.numel(), theirs["max"] - theirs["min"]
    return [
        # six deviations of what two draws differ by; a gap at a bound is e^-10 likely
        Row(f"{name} mean", abs(float(ours.mean()) - theirs["mean"]), 6 * theirs["std"] * (2 / count) ** 0.5),
        Row(f"{name} std ratio - 1", abs(float(ours.std()) / theirs["std"] - 1), 4 / count**0.5),
        Row(f"{name} min", abs(float(ours.min()) - theirs["min"]), extent * 10 / count),
        Row(f"{name} max", abs(float(ours.max()) - theirs["max"]), extent * 10 / count),
    ]
