"""The least score of a detection, for all classes or by class: `0.3`, or `0.3,cat=0.5,dog=0.2`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from crossstage.data.classes import some
from crossstage.errors import InputError, near_names


@dataclass(frozen=True)
class Thresholds:
    """The least score of all classes, and those of some classes by name."""

    general: float
    by_name: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return ", ".join([f"{self.general:g}", *(f"{value:g} ({name})" for name, value in self.by_name.items())])

    def check(self, class_names: Sequence[str]) -> None:
        """Raise InputError for a name that is not among the classes."""
        for name, value in self.by_name.items():
            if name not in class_names:
                known = f"near: {near_names(name, class_names)}; there are {some(class_names)}"
                raise InputError(
                    f"--threshold {name}={value:g}: there is no such class "
                    f"({known if class_names else 'the classes have no names'})"
                )

    def of_labels(self, labels: Tensor, class_names: Sequence[str]) -> Tensor:
        """The least score of each detection, float32 [D], by its class index, int64 [D]."""
        values = torch.full(labels.shape, self.general)
        for name, value in self.by_name.items():
            values[labels == class_names.index(name)] = value
        return values


def parse_thresholds(text: str) -> Thresholds:
    """Read the argument. Raises InputError if it is not a score, or scores by class."""
    given: dict[str, float] = {}  # the score of all classes has the name ""
    for part in text.split(","):
        name, _, value = part.rpartition("=")
        try:
            score = float(value)
        except ValueError:
            score = -1.0
        if not 0 <= score <= 1:
            raise InputError(f"--threshold {part}: expected a score from 0 to 1, e.g. 0.3 or 0.3,cat=0.5")
        if (name := name.strip()) in given:
            raise InputError(f"--threshold {text}: has two scores for {name or 'all classes'}; expected one")
        given[name] = score
    general = given.pop("", 0.3)
    return Thresholds(general, given)
