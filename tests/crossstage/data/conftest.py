"""Small COCO-format folders, written for each test."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def coco_folder(tmp_path: Path) -> Callable[..., Path]:
    """Write images of the given (height, width) and return the folder; `edit` changes the JSON before it is written."""

    def write(
        sizes: list[tuple[int, int]],
        annotations: list[dict[str, Any]],
        edit: Callable[[dict[str, Any]], Any] = lambda content: None,
    ) -> Path:
        (tmp_path / "images").mkdir(exist_ok=True)
        for number, (height, width) in enumerate(sizes):
            pixels = np.random.default_rng(number).integers(0, 255, (height, width, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.jpg")
        content = {
            "images": [
                {"id": 100 + number, "file_name": f"{number}.jpg", "height": height, "width": width}
                for number, (height, width) in enumerate(sizes)
            ],
            "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
            "annotations": [
                {"id": 50 + number, "category_id": 3, "iscrowd": 0, **annotation}
                for number, annotation in enumerate(annotations)
            ],
        }
        edit(content)
        (tmp_path / "instances.json").write_text(json.dumps(content))
        return tmp_path

    return write
