"""Replaces the images of a config's test set by those that the user chose."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from crossstage.cli.picture_files import find_images
from crossstage.data.pixels import read_image
from crossstage.errors import InputError


def choose_images(cfg: DictConfig, images: Sequence[str], folder: Path, *, limit: int | None) -> bool:
    """Let `dataloader.test.dataset` read a COCO JSON with the chosen images alone, written into `folder`.

    Annotations come from the test set; an image that is not in it has none. Without a choice, nothing changes.

    Args:
        cfg: changed in place.
        images: files, folders and globs; none: those of the test set.
        folder: for the JSON.
        limit: the first so many images, or None.

    Returns:
        Whether any image has annotations.

    Raises:
        InputError: if the config has no test set, or an image cannot be read.
    """
    if limit is not None and limit < 1:
        raise InputError(f"--limit {limit}: expected at least 1")
    node = OmegaConf.select(cfg, "dataloader.test.dataset")
    if node is None or "json_file" not in node:
        raise InputError(
            "the config has no dataloader.test.dataset with a json_file; expected the config of a detector"
        )
    json_file, root = Path(node.json_file).expanduser(), Path(node.image_root).expanduser()
    content = _annotations(json_file, cfg, needed=not images)
    if images or limit is not None:
        known = {os.path.realpath(root / record["file_name"]): record for record in content["images"]}
        files = [Path(path) for path in known] if not images else find_images(images, flag="--images")
        start = 1 + max((record["id"] for record in content["images"]), default=0)
        chosen = [known.get(os.path.realpath(file)) or _record(file, start + i) for i, file in enumerate(files[:limit])]
        ids = {record["id"] for record in chosen}
        annotations = [annotation for annotation in content["annotations"] if annotation["image_id"] in ids]
        content = {**content, "images": chosen, "annotations": annotations}
        node.json_file = str(folder / "chosen.json")
        node.image_root = str(root if root.is_dir() else folder)
        Path(node.json_file).write_text(json.dumps(content), encoding="utf-8")
    return bool(content["annotations"])


def _annotations(json_file: Path, cfg: DictConfig, *, needed: bool) -> dict[str, Any]:
    """The content of the JSON; if there is none and it is not needed, no image and as many classes as the model has."""
    if json_file.is_file():
        content: dict[str, Any] = json.loads(json_file.read_text(encoding="utf-8"))
        return content
    if needed:
        raise InputError(f"{json_file}: no such file; expected dataloader.root=DIR or --images")
    number = int(OmegaConf.select(cfg, "model.num_classes") or 1)
    classes = OmegaConf.select(cfg, "dataloader.test.dataset.classes") or map(str, range(number))
    names = [{"id": label, "name": name} for label, name in enumerate(classes)]
    return {"images": [], "annotations": [], "categories": names}


def _record(file: Path, image_id: int) -> dict[str, Any]:
    height, width = read_image(file).shape[-2:]
    return {"id": image_id, "file_name": os.path.realpath(file), "height": height, "width": width}
