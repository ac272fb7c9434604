"""The file predictions.json: an entry per image or per frame, one in each line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crossstage.files import write_text
from crossstage.structures import Detections

PREDICTIONS_FILE = "predictions.json"


def described(found: Detections) -> list[dict[str, Any]]:
    """The detections of an image. The category id is that of the training set, null if it is not known."""
    ids = found.category_ids
    rows = zip(found.boxes_xyxy.tolist(), found.scores.tolist(), found.labels.tolist(), found.names, strict=True)
    return [
        {
            "bbox": [round(x, 2) for x in box],
            "score": round(score, 4),
            "class": name,
            "label": label,
            "category_id": ids[label] if label < len(ids) else None,
        }
        for box, score, label, name in rows
    ]


def write_predictions(output: Path, entries: Sequence[str]) -> Path:
    """Write predictions.json from entries in JSON; returns the file."""
    lines = ",\n".join(entries)
    write_text(output / PREDICTIONS_FILE, f"[\n{lines}\n]\n")
    return output / PREDICTIONS_FILE


def entry(**values: Any) -> str:
    """One entry of predictions.json: JSON in one line."""
    return json.dumps(values, ensure_ascii=False)
