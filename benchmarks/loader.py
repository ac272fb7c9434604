"""From JPEG files to a batch, on one core: `CocoDetection`, `Resize` and `collate` against PIL."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.measure import Comparison, Setting, Target, interleaved, max_difference
from crossstage.data.batch import collate
from crossstage.data.coco import CocoDetection
from crossstage.data.transforms import Resize

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
ONE_LEVEL = 1.01 / min(STD)
"""The rounding of a resized uint8 pixel, in normalised units: torchvision and PIL may differ by one level."""


def run(setting: Setting) -> list[Comparison]:
    """Decode, resize the short edge, pad to a batch of 2. Ours stays uint8 and is normalised on the device."""
    size, short_edge, max_size = ((64, 48), 80, 133) if setting.quick else ((640, 480), 800, 1333)
    with tempfile.TemporaryDirectory() as folder:
        dataset = _write_dataset(Path(folder), size, images=2)
        transform = Resize(short_edge, max_size)
        paths = [dataset.path(index) for index in range(len(dataset))]
        scale = short_edge / min(size)
        resized = tuple(int(length * scale + 0.5) for length in size)
        sides = {
            "PIL, float, normalised": lambda: _by_pil(paths, resized, normalise=True),
            "PIL, uint8": lambda: _by_pil(paths, resized, normalise=False),
            "ours": lambda: collate([transform(dataset[index]) for index in range(len(dataset))]).pixels,
        }
        mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
        ours = (sides["ours"]() - mean) / std
        difference = max_difference(sides["PIL, float, normalised"](), ours)
        times = interleaved(sides, setting.rounds)
    return [
        Comparison(
            benchmark="loader",
            case=f"2 JPEGs of {size[0]}x{size[1]} to {resized[0]}x{resized[1]}",
            baseline=baseline,
            theirs=times[baseline],
            ours=times["ours"],
            target=target,
            difference=difference,
            tolerance=ONE_LEVEL,
        )
        for baseline, target in (("PIL, float, normalised", Target(at_least=3)), ("PIL, uint8", Target()))
    ]


def _by_pil(paths: list[Path], resized: tuple[int, int], *, normalise: bool) -> Tensor:
    """PIL decodes and resizes, numpy converts, and a batch is filled: [2, 3, H, W], float32 or uint8."""
    images = []
    for path in paths:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB").resize(resized, Image.Resampling.BILINEAR))
        if normalise:
            pixels = (pixels.astype(np.float32) - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
        images.append(torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))))
    batch = images[0].new_zeros(len(images), 3, resized[1], resized[0])
    for index, image in enumerate(images):
        batch[index, :, : image.shape[1], : image.shape[2]] = image
    return batch


def _write_dataset(folder: Path, size: tuple[int, int], *, images: int) -> CocoDetection:
    """Images of soft noise: as many bytes as a photograph of that size."""
    random = np.random.default_rng(0)
    records = []
    for number in range(1, images + 1):
        coarse = Image.fromarray(random.integers(0, 256, (size[1] // 6, size[0] // 6, 3), dtype=np.uint8))
        picture = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), dtype=np.int16)
        picture = (picture + random.integers(-4, 5, picture.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"{number}.jpg", quality=90)
        records.append({"id": number, "width": size[0], "height": size[1], "file_name": f"{number}.jpg"})
    boxes = [
        {"id": number, "image_id": number, "category_id": 1, "bbox": [4, 4, 20, 20], "area": 400, "iscrowd": 0}
        for number in range(1, images + 1)
    ]
    content = {"images": records, "annotations": boxes, "categories": [{"id": 1, "name": "noise"}]}
    (folder / "truth.json").write_text(json.dumps(content))
    return CocoDetection(folder / "truth.json", folder)
