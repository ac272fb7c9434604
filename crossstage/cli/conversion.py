"""The work of `crossstage convert`: reads, renames, cuts and writes a checkpoint. Read `convert` first."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from safetensors import SafetensorError
from torch import Tensor, nn

from crossstage.checkpoints.classes import COCO_CLASSES, class_axes, class_indices, select_classes
from crossstage.checkpoints.load import check_weights, read_checkpoint, some, weights_of, without_counters
from crossstage.checkpoints.names import NameTable, plain_into_grown
from crossstage.checkpoints.tensor_file import write_tensors
from crossstage.config import LazyConfig, find_config, instantiate
from crossstage.data.coco_json import read_coco
from crossstage.engine.class_rows import model_on_meta
from crossstage.errors import InputError
from crossstage.files import replacing

SUFFIXES = (".pth", ".safetensors")
SHOWN = 10


def convert(args: argparse.Namespace) -> list[str]:
    """Convert a checkpoint and return the lines to print. Raises InputError for a mistake of the user."""
    output = check_output(args)
    cfg = LazyConfig.apply_overrides(LazyConfig.load(find_config(args.config_file)), args.opts)
    if "model" not in cfg:
        raise InputError(f"{args.config_file}: expected the config of a detector, with model")
    table, wanted = name_table(cfg, args), wanted_classes(args)
    checkpoint = read_checkpoint(args.input)
    found = weights_of(checkpoint, args.input, ema=args.ema)
    model = model_on_meta(cfg.model)
    state = native_weights(found, model, table, args)
    lines = [f"{args.input}: {count(state)} of {args.config_file}", *left_out(checkpoint, found, state, table, args)]
    names = [str(name) for name in checkpoint.get("class_names") or ()]
    if wanted is not None:
        if OmegaConf.select(cfg.model, "num_classes") is None:
            raise InputError("--classes: the config has no model.num_classes to cut down from")
        axes = class_axes(shapes(model), shapes(model_on_meta(cfg.model, more_classes=1)))
        known = known_classes(names, cfg.model.num_classes, args)
        state = select_classes(state, axes, class_indices(wanted, known), num_classes=len(known))
        lines.append(f"  classes   {len(known)} to {len(wanted)}, in {len(axes)} tensors: {some(wanted, SHOWN)}")
        names = wanted
    if table is not None and args.target is not None:
        state = table.to_foreign(state)
        lines.append(f"  renamed   to {args.target}'s {len(state)} names, aliases included")
    write(state, names, output)
    return [*lines, f"  written   {output} ({output.stat().st_size / 2**20:.1f} MiB)"]


def check_output(args: argparse.Namespace) -> Path:
    """The path of OUT. Raises InputError if it cannot or must not be written, or if two options name classes."""
    output = Path(args.output).expanduser()
    if output.suffix not in SUFFIXES:
        raise InputError(f"{args.output}: expected a file name that ends in {' or '.join(SUFFIXES)}")
    if output.exists() and not (args.overwrite and output.is_file()):
        raise InputError(f"{output}: exists already; choose another name, or add --overwrite to replace a file")
    if not output.parent.is_dir() or not os.access(output.parent, os.W_OK):
        raise InputError(
            f"{output}: {output.parent} is not a folder that can be written to; make it, or choose another"
        )
    if args.classes is not None and args.classes_from is not None:
        raise InputError("--classes and --classes-from: expected one of them")
    return output


def name_table(cfg: DictConfig, args: argparse.Namespace) -> NameTable | None:
    """The config's table for the library that --from and --to name, or None if neither is given."""
    libraries = {"--from": args.source, "--to": args.target}
    asked = {option: library for option, library in libraries.items() if library is not None}
    if not asked:
        return None
    node = OmegaConf.select(cfg, "train.checkpoint_names")
    table = None if node is None else instantiate(node)
    for option, library in asked.items():
        if table is None or table.library != library:
            known = "no other library's names" if table is None else f"{table.library}'s names"
            raise InputError(f"{option} {library}: {args.config_file} knows {known} (train.checkpoint_names)")
    return table


def native_weights(
    found: Mapping[str, Tensor], model: nn.Module, table: NameTable | None, args: argparse.Namespace
) -> dict[str, Tensor]:
    """IN's weights with our names. Raises InputError if they do not fit the config's model."""
    state = dict(found)
    if table is not None and args.source is not None:
        try:
            state = table.to_native(found)
        except InputError as error:
            raise InputError(f"{args.input}: {error}") from error
        if state.keys() == found.keys():
            raise InputError(
                f"{args.input}: has no names of {args.source}; leave out --from if the names are ours already"
            )
    if added := plain_into_grown(model, state)[1]:
        raise InputError(
            f"{args.input}: weights of a plain model; {args.config_file} has {len(added)} more tensors "
            f"({some(added)}); convert with the config of the plain model, or train from the unchanged file with "
            "train.init_checkpoint"
        )
    expected = model.state_dict(keep_vars=True)
    state = without_counters(state, expected)
    check_weights(expected, state, args.input, shown=SHOWN)
    return state


def left_out(
    checkpoint: Mapping[str, Any],
    found: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    table: NameTable | None,
    args: argparse.Namespace,
) -> list[str]:
    """One line for each kind of content of IN that `state` does not have, with the reason."""
    theirs = None if args.source is None else table
    unneeded = [name for name in found if theirs is not None and theirs.is_left_out(name)]
    counters = [name for name in found if name.endswith("num_batches_tracked") and name not in state]
    aliases = len(found) - len(state) - len(unneeded) - len(counters)
    others = [str(key) for key, value in checkpoint.items() if not isinstance(value, Tensor) and key != "class_names"]
    others = [key for key in others if key not in ("ema_state" if args.ema else "model", "state_dict")]
    reasons = [
        (aliases, f"{aliases} further names of the same tensors"),
        (unneeded, f"{len(unneeded)} tensors that the model computes or never reads: {some(unneeded, 1)}"),
        (counters, f"{len(counters)} batch counters of norms that are constants"),
        (others, f"no weights, or weights that were not asked for: {some(others, SHOWN)}"),
    ]
    return [f"  left out  {text}" for reason, text in reasons if reason]


def known_classes(names: list[str], number: int, args: argparse.Namespace) -> list[str]:
    """The names of IN's classes: those in IN, or else COCO's if the number fits; otherwise raises InputError."""
    if not names and number == len(COCO_CLASSES):
        return list(COCO_CLASSES)
    if len(names) != number:
        says = f"names {len(names)} classes" if names else "names no classes"
        raise InputError(f"{args.input}: {says}, the config's model has {number}; expected as many, or COCO's 80")
    return names


def wanted_classes(args: argparse.Namespace) -> list[str] | None:
    """The classes to keep, or None for all."""
    if args.classes is not None:
        return [name.strip() for name in args.classes.split(",") if name.strip()]
    return None if args.classes_from is None else read_coco(args.classes_from).class_names


def write(state: Mapping[str, Tensor], names: Sequence[str], output: Path) -> None:
    """Write OUT completely or not at all. Raises InputError if it cannot be written."""
    try:
        with replacing(output) as temporary:
            if output.suffix == ".pth":
                torch.save({"model": dict(state), **({"class_names": list(names)} if names else {})}, temporary)
            else:
                write_tensors(temporary, state, class_names=names)
    except (OSError, RuntimeError, SafetensorError) as error:  # for a full disk, torch raises a RuntimeError
        raise InputError(f"{output}: cannot be written ({str(error).splitlines()[0]})") from error


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shapes in the state dict of a model, by name."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def count(state: Mapping[str, Tensor]) -> str:
    """The number of tensors and of numbers in them, in words."""
    return f"{len(state)} tensors, {sum(tensor.numel() for tensor in state.values()):,} numbers"
