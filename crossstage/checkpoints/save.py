"""The checkpoints of a run: each is written completely or not at all, under detectron2's names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from crossstage.checkpoints.load import read_checkpoint
from crossstage.checkpoints.names import with_current_names
from crossstage.errors import InputError
from crossstage.files import replacing, unwritable, write_text

PERIODIC = re.compile(r"model_\d{7,}\.pth")
POINTER = "last_checkpoint"
BEST = "model_best.pth"


class Checkpointer:
    """Writes and reads model_0000009.pth, ..., model_final.pth, and last_checkpoint, which names the newest one.

    model_best.pth has the weights with the best score; it is not among those that last_checkpoint names.

    Args:
        folder: the output folder of the run.
        max_to_keep: number of numbered checkpoints to keep; older ones are deleted. 0 keeps all.
    """

    def __init__(self, folder: Path, *, max_to_keep: int = 0) -> None:
        self.folder = folder
        self.max_to_keep = max_to_keep

    def save(self, name: str, state: dict[str, Any]) -> Path:
        """Write `state` as `name`.pth, then its name into last_checkpoint, then delete the oldest checkpoints.

        If the process is killed at any moment, last_checkpoint still names a complete file. Returns the file.
        Raises InputError if the disk is full or read-only; the checkpoints that exist stay as they are.
        """
        path = self.folder / f"{name}.pth"
        self._write(path, state)
        try:
            write_text(self.folder / POINTER, path.name)
        except OSError as error:
            raise self._unwritable(self.folder / POINTER, error) from error
        self._delete_oldest()
        return path

    def save_best(self, state: dict[str, Any]) -> Path:
        """Write `state` as model_best.pth. Returns the file. Raises InputError as `save` does."""
        path = self.folder / BEST
        self._write(path, state)
        return path

    def _write(self, path: Path, state: dict[str, Any]) -> None:
        try:
            with replacing(path) as temporary, temporary.open("wb") as file:
                torch.save(state, file)
        # torch's writer raises a RuntimeError of its own after that of the file.
        except (OSError, RuntimeError) as error:
            cause = error if isinstance(error, OSError) else error.__context__
            if not isinstance(cause, OSError):
                raise
            raise self._unwritable(path, cause) from error

    def _unwritable(self, path: Path, error: OSError) -> InputError:
        pointer = self.folder / POINTER
        last = pointer.read_text(errors="replace").strip() if pointer.is_file() else "none yet"
        return InputError(f"{unwritable(path, error)} (last checkpoint: {last})")

    def latest(self) -> Path | None:
        """The checkpoint to resume from, or None. Raises InputError if last_checkpoint names a missing file."""
        pointer = self.folder / POINTER
        if not pointer.is_file():
            return None
        name = pointer.read_text(errors="replace").strip()
        path = self.folder / name
        if not path.is_file():
            shown = name if name.startswith("model_") else f"{name[:40]!a}"  # such as zeros after a loss of power
            raise InputError(f"{pointer} names {shown}, which does not exist{self._alternative(path)}")
        return path

    def read(self, path: Path) -> dict[str, Any]:
        """Read a checkpoint of a run.

        Raises:
            InputError: if it cannot be read or is not a checkpoint of a run; names the previous checkpoint.
        """
        try:
            state = read_checkpoint(path)
        except InputError as error:
            raise InputError(f"{error}{self._alternative(path)}") from error
        if missing := {"model", "optimizer", "iteration", "random", "sampler"} - state.keys():
            raise InputError(
                f"{path}: cannot be resumed from, it has no {', '.join(sorted(missing))}; "
                "start from its weights with train.init_checkpoint"
            )
        for weights in ("model", "ema_state"):
            if weights in state:
                state[weights] = with_current_names(state[weights])
        return state

    def _alternative(self, path: Path) -> str:
        is_name = path.name.startswith("model_")
        others = [other for other in self._numbered() if other != path and (not is_name or other.name < path.name)]
        if not others:
            return ""
        previous = others[-1].name
        return f"; the previous one is {previous}: write its name into {self.folder / POINTER} to continue from there"

    def _numbered(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("model_*.pth") if PERIODIC.fullmatch(path.name))

    def _delete_oldest(self) -> None:
        if self.max_to_keep:
            for path in self._numbered()[: -self.max_to_keep]:
                path.unlink(missing_ok=True)
