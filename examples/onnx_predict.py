"""Detect objects in pictures with a file that `crossstage export` wrote. Needs numpy, pillow and onnxruntime alone.

python examples/onnx_predict.py model.onnx photo.jpg other.png --threshold 0.3
"""

import argparse
import json

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def detect(session, picture):
    """The detections of a PIL image, best first: boxes [D, 4] as x0, y0, x1, y1 in its pixels, scores, labels."""
    picture = ImageOps.exif_transpose(picture).convert("RGB")
    resized = picture.resize(input_size(session, *picture.size), Image.Resampling.BILINEAR)
    pixels = np.asarray(resized, dtype=np.uint8).transpose(2, 0, 1)[None]  # [1, 3, H, W]
    boxes, scores, labels = (found[0] for found in session.run(None, {"pixels": pixels}))
    boxes = boxes * np.tile(np.divide(picture.size, resized.size), 2).astype(np.float32)
    kept = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)  # a box that was outside the picture is empty
    return boxes[kept], scores[kept], labels[kept]


def input_size(session, width, height):
    """(width, height) that a picture of this size is resized to: that of the file, or by the rule in its metadata."""
    fixed = session.get_inputs()[0].shape[2:]
    if all(isinstance(length, int) for length in fixed):
        return fixed[1], fixed[0]
    facts = session.get_modelmeta().custom_metadata_map
    rule = json.loads(facts["resize"]) or {}
    scale = (rule.get("short_edge") or min(width, height)) / min(width, height)
    scale = min(scale, (rule.get("max_size") or np.inf) / max(width, height))
    rows, columns = json.loads(facts["multiples"])  # a Swin takes whole windows
    return whole(width * scale, columns), whole(height * scale, rows)


def whole(length, multiple):
    """The length to the nearest pixel, and up to a multiple."""
    return max(1, -(-int(length + 0.5) // multiple)) * multiple


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("pictures", nargs="+")
    parser.add_argument("--threshold", type=float, default=0.3)
    args = parser.parse_args()
    session = onnxruntime.InferenceSession(args.model, providers=onnxruntime.get_available_providers())
    names = dict(enumerate(json.loads(session.get_modelmeta().custom_metadata_map["class_names"])))
    for file in args.pictures:
        for box, score, label in zip(*detect(session, Image.open(file)), strict=True):
            if score >= args.threshold:
                print(file, names.get(int(label), int(label)), f"{score:.3f}", *np.round(box, 1))
