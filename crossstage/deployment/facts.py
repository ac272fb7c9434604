"""What an exported file says about itself, as texts by name: enough to use it without this library."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import crossstage
from crossstage.errors import InputError

OUTPUTS = ("boxes", "scores", "labels")


@dataclass(frozen=True)
class Facts:
    """What is written into a file next to its graph.

    Attributes:
        class_names: name of each class, by label; empty if they are not known.
        resize: the config's resize rule, `short_edge` and `max_size` in pixels, either may be None. None: images enter
            as they are. See `crossstage.data.transforms.resized_size` for the arithmetic.
        config: the config as YAML.
        weights: name of the file of the weights.
        weights_sha256: digest of that file.
        precision: "float32", or "float16" for a graph of mixed precision.
        multiples: the numbers of which height and width of the input must be multiples.
    """

    class_names: Sequence[str]
    resize: Mapping[str, int | None] | None
    config: str
    weights: str
    weights_sha256: str
    precision: str = "float32"
    multiples: tuple[int, int] = (1, 1)

    def texts(self) -> dict[str, str]:
        """The facts as texts by name; lists and mappings are JSON."""
        return {
            "input": "pixels: uint8 [batch, 3, height, width], RGB; all images of a batch have one size, no padding",
            "outputs": "boxes: absolute x0, y0, x1, y1 in pixels of the input; scores; labels; best first",
            "class_names": json.dumps(list(self.class_names), ensure_ascii=False),
            "resize": json.dumps(None if self.resize is None else dict(self.resize)),
            "multiples": json.dumps(list(self.multiples)),
            "config": self.config,
            "weights": self.weights,
            "weights_sha256": self.weights_sha256,
            "precision": self.precision,
            "crossstage": crossstage.__version__,
        }


def resize_rule(transform: Any) -> dict[str, int | None] | None:
    """The rule of a test transform; None for a config without one.

    Raises:
        InputError: if the transform is not a `Resize`, which alone can be told by two numbers.
    """
    if transform is None:
        return None
    try:
        return {"short_edge": transform.short_edge, "max_size": transform.max_size}
    except AttributeError as error:
        raise InputError(
            f"dataloader.test.transform: is a {type(transform).__name__}, whose rule an exported file cannot tell; "
            "expected crossstage.data.transforms.Resize, or null"
        ) from error
