"""The annotations of a data set as records for faster-coco-eval."""

from __future__ import annotations

from typing import Any

from crossstage.data.coco_json import CocoContents

Records = list[dict[str, Any]]


def truth_records(contents: CocoContents) -> dict[str, Records]:
    """The images, categories and corrected annotations for faster-coco-eval (see `crossstage.evaluation.coco`)."""
    category_ids, names = contents.category_ids, contents.class_names
    columns = (
        contents.image_ids[contents.image_rows],
        contents.labels,
        contents.boxes_xywh,
        contents.areas,
        contents.crowd.astype(int),
    )
    annotations = [
        {
            "id": number,
            "image_id": image_id,
            "category_id": category_ids[label],
            "bbox": box,
            "area": area,
            "iscrowd": crowd,
        }
        for number, (image_id, label, box, area, crowd) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True), start=1
        )
    ]
    categories = [
        {"id": category_id, "name": name}
        for category_id, name in zip(category_ids, names, strict=True)
        if category_id is not None
    ]
    return {
        "images": [
            {"id": image_id, "file_name": file_name}
            for image_id, file_name in zip(contents.image_ids.tolist(), contents.file_names, strict=True)
        ],
        "categories": categories,
        "annotations": annotations,
    }


def numbered(truth: dict[str, Records], boxes: Records) -> dict[str, Records]:
    """A data set with `boxes` as its annotations, in which images and categories have their ranks as ids, from 1.

    faster-coco-eval keeps ids as floats, which cannot tell whole numbers above 2**53 apart.

    Args:
        truth: from `truth_records`.
        boxes: annotations or results.

    Returns:
        The data set; `truth` and `boxes` are not changed.
    """
    images, categories = ([dict(record) for record in truth[name]] for name in ("images", "categories"))
    ranks: list[dict[int, int]] = []
    for records in (images, categories):
        ranks.append({number: rank for rank, number in enumerate(sorted(record["id"] for record in records), start=1)})
        for record in records:
            record["id"] = ranks[-1][record["id"]]
    of_image, of_category = ranks
    annotations = [
        {**box, "image_id": of_image[box["image_id"]], "category_id": of_category[box["category_id"]]} for box in boxes
    ]
    return {"images": images, "categories": categories, "annotations": annotations}
