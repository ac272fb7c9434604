"""Loads weights from files into models. No code in a file is ever run (see `files`)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from crossstage.checkpoints.download import downloaded
from crossstage.checkpoints.files import read_file
from crossstage.checkpoints.names import plain_into_grown, with_current_names
from crossstage.errors import InputError

logger = logging.getLogger("crossstage.checkpoints")

SHOWN = 3  # names of each kind that a message lists
CLASSIFIER_TENSORS = 2  # a backbone's file may also hold the weight and bias of its classifier


class Names(Protocol):
    """A rename table between another library's parameter names and ours."""

    def to_native(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename a state dict of theirs to ours."""
        ...

    def is_left_out(self, name: str) -> bool:
        """Whether a name of the other library has no counterpart among ours."""
        ...


def local_path(path: str | Path) -> Path:
    """Return the local file of a path or an http(s) address. An address is downloaded once, to torch.hub's cache.

    Raises:
        InputError: for an unknown prefix, a failed download, a missing file, or a folder.
    """
    text = str(path)
    prefix, separator, _ = text.partition("://")
    if separator and prefix not in ("http", "https"):
        raise InputError(f"{text}: unknown prefix {prefix}://; expected a local file or an http(s) address")
    if separator:
        return downloaded(text)
    file = Path(text).expanduser()
    if not file.is_file():
        problem = "is a folder" if file.is_dir() else "no such file"
        raise InputError(f"{text}: {problem}; expected a checkpoint (.pth, .safetensors or .pkl)")
    return file


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint or a file of weights; no code in it is run.

    Args:
        path: a local file or an http(s) address; see `read_file` for the formats.

    Returns:
        The content, with tensors on the CPU and arrays as tensors.

    Raises:
        InputError: if the file is missing, damaged, or contains code; names the file.
    """
    return read_file(local_path(path))


def class_names_of(path: str | Path) -> list[str]:
    """The names of a checkpoint's classes, by class index; empty if it has none. Raises InputError as `load_model`."""
    return [str(name) for name in read_checkpoint(path).get("class_names") or ()]


def load_model(
    model: nn.Module,
    path: str | Path,
    *,
    names: Names | None = None,
    ema: bool = False,
    fine_tuning: bool = False,
    adapt: Callable[[dict[str, Tensor], dict[str, Any]], dict[str, Tensor]] | None = None,
) -> dict[str, Any]:
    """Load weights into a model, in place. If a file holds only a backbone, it is loaded into `model.backbone`.

    Args:
        model: the model.
        path: a local file or an http(s) address.
        names: rename table for a checkpoint of another library.
        ema: whether to take the averaged weights ("ema_state").
        fine_tuning: whether parameters keep their initialisation if they differ only in the number of classes, or
            if DCA adds them to a plain model. The log lists them.
        adapt: changes the weights, by our names, before they are loaded; its second argument is the whole checkpoint.

    Returns:
        The whole checkpoint, which may also hold class names and more.

    Raises:
        InputError: if the weights do not fit the model; one line.
    """
    checkpoint = read_checkpoint(path)
    state = weights_of(checkpoint, path, ema=ema)
    if names is not None:
        if unread := [name for name in state if names.is_left_out(name)]:
            logger.info(f"{path}: {len(unread)} tensors have no counterpart here and were left out: {some(unread)}")
        state = names.to_native(state)
    state = with_current_names(state)
    if adapt is not None:
        state = adapt(state, checkpoint)
    load_weights(model, state, path, fine_tuning=fine_tuning)
    return checkpoint


def weights_of(checkpoint: Mapping[str, Any], path: str | Path, *, ema: bool = False) -> dict[str, Tensor]:
    """Find the state dict in a checkpoint: under "model", under "state_dict", or the checkpoint itself.

    Args:
        checkpoint: the content of a file.
        path: the file, for messages.
        ema: whether to take the averaged weights ("ema_state") instead.

    Returns:
        The tensors by name, without the prefix "module.".

    Raises:
        InputError: if there are no such weights.
    """
    if ema and "ema_state" not in checkpoint:
        raise InputError(
            f"{path}: has no averaged weights (ema_state); expected a checkpoint that was trained with "
            "train.model_ema.enabled=True, or train.model_ema.enabled=False to evaluate its plain weights"
        )
    key = "ema_state" if ema else next((key for key in ("model", "state_dict") if key in checkpoint), None)
    found = checkpoint if key is None else checkpoint[key]
    state = (
        {name: value for name, value in found.items() if isinstance(value, Tensor)} if isinstance(found, dict) else {}
    )
    if not state:
        raise InputError(f"{path}: holds no weights; expected tensors by name, or such a dict under 'model'")
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


def load_weights(
    model: nn.Module, state: Mapping[str, Tensor], source: str | Path, *, fine_tuning: bool = False
) -> None:
    """Load a state dict with our names; see `load_model`. Messages name `source`."""
    expected = model.state_dict(keep_vars=True)
    state = without_counters(state, expected)
    backbone = _backbone_only(expected, state)
    if backbone is not None:
        prefixed, left_over = backbone
        check_weights(expected, prefixed, source, only="backbone.")
        model.load_state_dict(prefixed, strict=False)
        ignored = f"; not used: {some(left_over)}" if left_over else ""
        logger.info(f"{source}: weights of the backbone alone, {len(prefixed)} tensors{ignored}")
        return
    if fine_tuning:
        state = _with_added_parts(model, expected, state, source)
        state = _without_other_class_counts(model, expected, state, source)
    else:
        check_weights(expected, state, source)
    model.load_state_dict(state, strict=False)


def without_counters(state: Mapping[str, Tensor], expected: Iterable[str]) -> dict[str, Tensor]:
    """Remove the batch counters (`num_batches_tracked`) that are not among the model's names, `expected`.

    A frozen norm is a constant and has no counter.
    """
    known = set(expected)
    return {name: value for name, value in state.items() if name in known or not name.endswith("num_batches_tracked")}


def check_weights(
    expected: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    source: str | Path,
    *,
    only: str = "",
    shown: int = SHOWN,
) -> None:
    """Check that a state dict fits a model; the model may be on the meta device.

    Args:
        expected: the model's state_dict(keep_vars=True), in which several names of a tensor give the same object.
        state: the weights to check.
        source: where they are from, for the message.
        only: prefix of the names that must be present; "" means all.
        shown: number of names of each kind that the message lists.

    Raises:
        InputError: lists the names that are missing, unexpected, or of another shape.
    """
    # A tensor with several names must be present under one of them.
    loaded = {id(expected[name]) for name in state if name in expected}
    missing = [
        name
        for name, tensor in expected.items()
        if name.startswith(only) and name not in state and id(tensor) not in loaded
    ]
    unexpected = [name for name in state if name not in expected]
    other = [
        f"{name} {_shape(state[name])} for {_shape(tensor)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    found = [("missing", missing), ("unexpected", unexpected), ("of another shape", other)]
    if problems := [f"{len(names)} {kind} ({some(names, shown)})" for kind, names in found if names]:
        raise InputError(
            f"{source}: weights of another model: {'; '.join(problems)}; expected those that this config's model saves"
        )


def _with_added_parts(
    model: nn.Module, expected: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str | Path
) -> dict[str, Tensor]:
    """Complete the weights of a plain model by the initialisation of the model's additional parts; log their names."""
    fitted, added = plain_into_grown(model, state)
    if added:
        logger.warning(
            f"{source}: weights of a plain model; {len(added)} tensors keep their initialisation: {some(added)}"
        )
    return fitted | {name: expected[name].detach() for name in added}


def _without_other_class_counts(
    model: nn.Module, expected: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str | Path
) -> dict[str, Tensor]:
    """Remove the tensors that differ only in the number of classes, and log their names; check the others."""
    classes = {getattr(model, "num_classes", None), getattr(model, "num_classes", -2) + 1}
    dropped = [
        name
        for name, tensor in expected.items()
        if name in state
        and state[name].ndim == tensor.ndim >= 1
        and state[name].shape[0] != tensor.shape[0]
        and state[name].shape[1:] == tensor.shape[1:]
        and tensor.shape[0] in classes
    ]
    kept = {name: value for name, value in state.items() if name not in dropped}
    # The check must not complain about the tensors that were dropped on purpose.
    check_weights(expected, kept | {name: expected[name] for name in dropped}, source)
    if dropped:
        was, now = state[dropped[0]].shape[0], expected[dropped[0]].shape[0]
        logger.warning(
            f"{source}: has {was} classes, the model {now}; these keep their initialisation: {', '.join(dropped)}"
        )
    return kept


def _backbone_only(
    expected: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]] | None:
    """The backbone's tensors by our names, and the names left over; None if `state` does not hold only a backbone."""
    wanted = {name for name in expected if name.startswith("backbone.")}
    if not wanted or any(name in expected for name in state if not name.startswith("backbone.")):
        return None
    for prefix in ("", "backbone.", "backbone.body."):
        prefixed = {prefix + name: value for name, value in state.items()}
        left_over = [name.removeprefix(prefix) for name in prefixed if name not in wanted]
        if wanted <= prefixed.keys() and (prefix or len(left_over) <= CLASSIFIER_TENSORS):
            return {name: prefixed[name] for name in wanted}, left_over
    return None


def _shape(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape) or "scalar"


def some(names: Iterable[str], shown: int = SHOWN) -> str:
    """The first few names, and dots if there are more."""
    names = list(names)
    return ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")
