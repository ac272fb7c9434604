"""Says in one line which record of a COCO JSON is wrong, from the error of the decoder."""

from __future__ import annotations

import json
import re
from typing import Any

SINGULAR = {"images": "image", "annotations": "annotation", "categories": "category"}
EXPECTED = {
    "id": "a whole number of at most 63 bits",
    "image_id": "a whole number of at most 63 bits",
    "category_id": "a whole number of at most 63 bits",
    "file_name": "a string, the path of the picture from the folder of the pictures",
    "height": "a positive whole number of pixels",
    "width": "a positive whole number of pixels",
    "name": "a string",
    "bbox": "four numbers [x, y, width, height] in pixels",
    "area": "a number of at least 0, in pixels",
    "iscrowd": "0 or 1",
}
PLACE = re.compile(r" - at `\$(?:\.(?P<list>\w+)(?:\[(?P<row>\d+)\](?:\.(?P<key>\w+))?)?)?")
MISSING = re.compile(r"missing required field `(\w+)`")


def explain(error: str, content: Any) -> str:
    """Describe a mistake.

    Args:
        error: the message of msgspec, which ends with a place such as "at `$.annotations[7].iscrowd`".
        content: the content of the file.

    Returns:
        The record by its id, the value that it has and what is expected.
    """
    place, missing = PLACE.search(error), MISSING.search(error)
    if place is not None and place["list"] == "images" and content.get("images") == []:
        return '"images" is empty; expected at least one image'
    if place is None or place["row"] is None:
        name = (place and place["list"]) or (missing and missing[1]) or "images"
        return f'has no list "{name}"; expected COCO\'s "images", "annotations", "categories"'
    name, row, key = place["list"], int(place["row"]), place["key"]
    record = content[name][row]
    if not isinstance(record, dict):
        return f"{name}[{row}] is {shown(record)}; expected an object in braces"
    who = named(name, record, row)
    if key is None:
        key = missing[1] if missing else "id"
        return f'{who} has no "{key}"; expected {EXPECTED[key]}'
    return f'{who} has "{key}": {shown(record[key])}; expected {EXPECTED[key]}'


def named(name: str, record: dict[str, Any], row: int | None = None) -> str:
    """A record in words: by its id if it has one, an image also by its file name, otherwise by its position."""
    identity = record.get("id")
    words = f"{name}[{row}]" if identity is None else f"{SINGULAR[name]} {shown(identity)}"
    file_name = record.get("file_name")
    return f"{words} ({file_name:.80})" if name == "images" and isinstance(file_name, str) else words


def shown(value: Any) -> str:
    """A value as JSON, shortened to 80 characters."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
