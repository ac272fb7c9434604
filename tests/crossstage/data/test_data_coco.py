"""COCO-format datasets: what is read, what is left out, and what is said of a file that is wrong."""

import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image

from crossstage.data.coco import CocoDetection
from crossstage.errors import InputError

NAN = float("nan")
BOX = {"image_id": 100, "bbox": [1, 2, 10, 20]}


def load(folder, **options):
    return CocoDetection(folder / "instances.json", folder / "images", **options)


def test_a_sample_has_contiguous_labels_and_absolute_corners(coco_folder):
    boxes = [BOX, {"image_id": 101, "bbox": [0, 0, 5, 5]}, {"image_id": 100, "category_id": 7, "bbox": [0.5, 1, 2, 3]}]
    dataset = load(coco_folder([(40, 30), (20, 50)], boxes))
    assert (dataset.category_ids, dataset.class_names, dataset.num_classes) == ([3, 7], ["cat", "dog"], 2)
    sample = dataset[0]
    assert sample.pixels.dtype == torch.uint8 and sample.pixels.shape == (3, 40, 30)
    assert sample.labels.tolist() == [0, 1] and sample.labels.dtype == torch.int64
    assert sample.boxes.tolist() == [[1, 2, 11, 22], [0.5, 1, 2.5, 4]] and sample.boxes.dtype == torch.float32
    assert (sample.image_id, sample.original_size) == (100, (40, 30))
    assert dataset[1].boxes.tolist() == [[0, 0, 5, 5]] and dataset[1].image_id == 101


def test_crowd_and_useless_boxes_are_left_out_and_counted_in_one_line(coco_folder, caplog):
    boxes = [
        BOX,
        {**BOX, "iscrowd": 1},
        {**BOX, "bbox": [3, 3, 0, 5]},
        {**BOX, "bbox": [3, 3, 5, 0]},
        {**BOX, "bbox": [30, 3, 5, 5]},
        {**BOX, "bbox": [-4, -4, 10, 10]},  # partly inside: clipped
    ]
    with caplog.at_level(logging.INFO, "crossstage.data"):
        dataset = load(coco_folder([(40, 30)], boxes))
    assert dataset[0].boxes.tolist() == [[1, 2, 11, 22], [0, 0, 6, 6]]
    assert "1 crowd regions" in caplog.text
    dropped, beyond = (record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    assert "dropped 2 boxes without area and 1 outside their image" in dropped
    assert "2 of 5 boxes reach beyond their image" in beyond


def test_images_without_boxes_stay_or_go(coco_folder):
    folder = coco_folder([(40, 30), (20, 20), (20, 20)], [BOX, {**BOX, "image_id": 101, "iscrowd": 1}])
    kept = load(folder, keep_empty=True)
    assert len(kept) == 3
    assert kept[2].boxes.shape == (0, 4) and kept[2].labels.shape == (0,) and kept[2].boxes.dtype == torch.float32
    dropped = load(folder, keep_empty=False)
    assert len(dropped) == 1 and dropped[0].image_id == 100 and dropped.image_sizes.tolist() == [[40, 30]]


def test_only_empty_images_is_an_error_when_they_are_to_be_dropped(coco_folder):
    with pytest.raises(InputError, match="no image has a box; expected some, or keep_empty=True"):
        load(coco_folder([(40, 30)], []), keep_empty=False)


@pytest.mark.parametrize(("value", "number"), [(0, 1), (1, 0), (False, 1), (True, 0)])
def test_iscrowd_is_0_or_1_or_a_boolean(coco_folder, value, number):
    folder = coco_folder([(40, 30)], [{**BOX, "iscrowd": value}])
    assert len(load(folder)[0].labels) == number


def test_what_only_python_accepts_is_read(coco_folder):
    """NaN in a field that is not used, and a byte-order mark."""
    folder = coco_folder([(40, 30)], [{**BOX, "score": NAN}])
    text = (folder / "instances.json").read_text()
    (folder / "instances.json").write_bytes(text.encode("utf-8-sig"))
    assert len(load(folder)[0].labels) == 1


def test_a_file_that_changed_is_read_again(coco_folder):
    assert len(load(coco_folder([(40, 30)], [BOX]))[0].labels) == 1
    assert len(load(coco_folder([(40, 30)], [BOX, {**BOX, "bbox": [3, 3, 9, 9]}]))[0].labels) == 2


def test_iscrowd_may_be_absent(coco_folder):
    folder = coco_folder([(40, 30)], [BOX], lambda content: content["annotations"][0].pop("iscrowd"))
    assert len(load(folder)[0].labels) == 1


def set_in(kind, key, value):
    return lambda content: content[kind][-1].update({key: value})


def remove(kind, key):
    return lambda content: content[kind][-1].pop(key)


WRONG = {
    "annotation of an unknown image": (set_in("annotations", "image_id", 9), 'annotation 51 has "image_id": 9, which'),
    "of an unknown category": (set_in("annotations", "category_id", 4), 'annotation 51 has "category_id": 4, which'),
    "NaN box": (
        set_in("annotations", "bbox", [1, NAN, 3, 4]),
        "annotation 51 has bbox [1.0, NaN, 3.0, 4.0]; expected finite",
    ),
    "infinite box": (set_in("annotations", "bbox", [1, 2, float("inf"), 4]), "annotation 51 has bbox"),
    "inverted box": (set_in("annotations", "bbox", [9, 9, -3, 4]), "width and height may not be negative"),
    "box of three": (set_in("annotations", "bbox", [1, 2, 3]), 'annotation 51 has "bbox": [1, 2, 3]; expected four'),
    "box of words": (set_in("annotations", "bbox", [1, 2, 3, "4"]), 'annotation 51 has "bbox": [1, 2, 3, "4"]'),
    "box is a word": (set_in("annotations", "bbox", "all"), 'annotation 51 has "bbox": "all"; expected four numbers'),
    "box has null": (set_in("annotations", "bbox", [1, 2, None, 4]), 'annotation 51 has "bbox": [1, 2, null, 4]'),
    "box has true": (set_in("annotations", "bbox", [1, 2, True, 4]), 'annotation 51 has "bbox": [1, 2, true, 4]'),
    "crowd is text": (set_in("annotations", "iscrowd", "0"), 'annotation 51 has "iscrowd": "0"; expected 0 or 1'),
    "crowd is null": (set_in("annotations", "iscrowd", None), 'annotation 51 has "iscrowd": null; expected 0 or 1'),
    "crowd is a list": (set_in("annotations", "iscrowd", [0]), 'annotation 51 has "iscrowd": [0]; expected 0 or 1'),
    "crowd is NaN": (set_in("annotations", "iscrowd", NAN), 'annotation 51 has "iscrowd": NaN; expected 0 or 1'),
    "crowd is 2": (set_in("annotations", "iscrowd", 2), 'annotation 51 has "iscrowd": 2; expected 0 or 1'),
    "area is text": (set_in("annotations", "area", "12.5"), 'annotation 51 has "area": "12.5"; expected a number of'),
    "area is null": (set_in("annotations", "area", None), 'annotation 51 has "area": null; expected a number of'),
    "area is true": (set_in("annotations", "area", True), 'annotation 51 has "area": true; expected a number of'),
    "area is NaN": (set_in("annotations", "area", NAN), 'annotation 51 has "area": NaN; expected a'),
    "area is infinite": (set_in("annotations", "area", float("inf")), 'annotation 51 has "area": Infinity; expected a'),
    "area is negative": (set_in("annotations", "area", -3), 'annotation 51 has "area": -3; expected a number of'),
    "image_id is text": (set_in("annotations", "image_id", "100"), 'annotation 51 has "image_id": "100"; expected a'),
    "image_id is true": (set_in("annotations", "image_id", True), 'annotation 51 has "image_id": true; expected a'),
    "category_id is a list": (set_in("annotations", "category_id", [3]), '51 has "category_id": [3]; expected a whole'),
    "category_id is a float": (
        set_in("annotations", "category_id", 3.0),
        '51 has "category_id": 3.0; expected a whole',
    ),
    "width is text": (set_in("images", "width", "20"), 'image 101 (1.jpg) has "width": "20"; expected a positive'),
    "height is null": (set_in("images", "height", None), 'image 101 (1.jpg) has "height": null; expected a positive'),
    "height is NaN": (set_in("images", "height", NAN), 'image 101 (1.jpg) has "height": NaN; expected a positive'),
    "file name is a number": (set_in("images", "file_name", 5), 'image 101 has "file_name": 5; expected a string'),
    "file name is empty": (set_in("images", "file_name", ""), 'has "file_name": ""; expected a string'),
    "name is null": (set_in("categories", "name", None), 'category 3 has "name": null; expected a string'),
    "name is a number": (set_in("categories", "name", 1), 'category 3 has "name": 1; expected a string'),
    "no bbox": (remove("annotations", "bbox"), 'annotation 51 has no "bbox"'),
    "no annotation id": (remove("annotations", "id"), 'annotations[1] has no "id"; expected a whole number'),
    "duplicate annotation": (set_in("annotations", "id", 50), "annotations id 50 occurs 2 times"),
    "duplicate image": (set_in("images", "id", 100), "images id 100 occurs 2 times"),
    "duplicate category": (set_in("categories", "id", 7), "categories id 7 occurs 2 times"),
    "no file name": (remove("images", "file_name"), 'image 101 has no "file_name"'),
    "no height": (remove("images", "height"), 'image 101 (1.jpg) has no "height"'),
    "no width in pixels": (
        set_in("images", "width", 0),
        'image 101 (1.jpg) has "width": 0; expected a positive whole number',
    ),
    "id is a word": (set_in("images", "id", "b"), 'has "id": "b"; expected a whole number'),
    "id is huge": (set_in("images", "id", 2**70), "expected a whole number of at most 63 bits"),
    "no category name": (remove("categories", "name"), 'category 3 has no "name"'),
    "an image is no object": (lambda content: content["images"].append(5), "images[2] is 5; expected an object"),
    "an annotation is null": (lambda content: content["annotations"].append(None), "annotations[2] is null"),
    "no images": (lambda content: content["images"].clear(), '"images" is empty'),
    "no categories": (lambda content: content["categories"].clear(), '"categories" is empty'),
    "without images": (lambda content: content.pop("images"), 'has no list "images"'),
    "without annotations": (lambda content: content.pop("annotations"), 'has no list "annotations"'),
    "without categories": (lambda content: content.pop("categories"), 'has no list "categories"'),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_json_is_one_line_that_names_the_file_and_the_record(coco_folder, case):
    edit, message = WRONG[case]
    folder = coco_folder([(40, 30), (20, 20)], [BOX, BOX], edit)
    with pytest.raises(InputError) as caught:
        load(folder)
    said = str(caught.value)
    assert message in said and str(folder / "instances.json") in said and "\n" not in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"images": [', "is not JSON, or is truncated"),
        (b"\xff\xfe\x00", "is not JSON, or is truncated"),
        (b"", "is not JSON, or is truncated"),
        (b"[]", 'has no list "images"'),
        (None, "no such file; expected COCO annotations there"),
    ],
)
def test_a_file_that_is_no_coco_json(tmp_path, text, message):
    if text is not None:
        (tmp_path / "instances.json").write_bytes(text)
    with pytest.raises(InputError, match=r"instances\.json") as caught:
        load(tmp_path)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_image_folder_is_named(coco_folder):
    folder = coco_folder([(40, 30)], [BOX])
    with pytest.raises(InputError, match="nowhere: no such folder; expected the images of"):
        CocoDetection(folder / "instances.json", folder / "nowhere")


def truncate(path):
    path.write_bytes(path.read_bytes()[:-200])


DAMAGES = {
    "missing": (lambda path: path.unlink(), "missing"),
    "zero bytes": (lambda path: path.write_bytes(b""), "zero bytes"),
    "truncated": (truncate, "cannot be read as an image, it may be truncated"),
    "no image": (lambda path: path.write_text("<html>404</html>"), "cannot be read as an image"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "is a folder; expected an image file"),
    "other letters": (
        lambda path: path.rename(path.with_suffix(".JPG")),
        "(No such file or directory); the folder has '1.",
    ),
    "another size": (lambda path: Image.new("RGB", (40, 30)).save(path), "is 40 x 30 pixels, but image 101"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_preflight_names_the_image_that_cannot_be_used(coco_folder, case):
    damage, message = DAMAGES[case]
    folder = coco_folder([(40, 30)] * 3, [BOX])
    dataset = load(folder)
    dataset.preflight()
    damage(folder / "images" / "1.jpg")
    with pytest.raises(InputError) as caught:
        dataset.preflight()
    said = str(caught.value)
    assert message in said and str(folder / "images" / "1.jpg") in said and "image 101" in said and "\n" not in said
    if case not in ("missing", "other letters"):
        with pytest.raises(InputError, match=r"1\.jpg"):
            dataset[1]
    dataset[0], dataset[2]


NAMES = {
    "composed, for macOS's letter and accent": (
        "caf\u00e9.jpg",
        "cafe\u0301.jpg",
        "has 'cafe\\u0301.jpg', which differs",
    ),
    "backslashes of Windows": (
        "images\\0.jpg",
        "0.jpg",
        "has backslashes, as paths of Windows have: write / in the JSON",
    ),
    "a zero byte": ("0\0.jpg", "0.jpg", "is missing (embedded null byte)"),
    "another file": ("1.jpg", "0.jpg", "is missing (No such file or directory)"),
}


@pytest.mark.parametrize("case", NAMES)
def test_a_name_that_almost_fits_is_explained(coco_folder, case):
    name, there, message = NAMES[case]
    folder = coco_folder([(40, 30)], [BOX], lambda content: content["images"][0].update(file_name=name))
    (folder / "images" / "0.jpg").rename(folder / "images" / there)
    with pytest.raises(InputError) as caught:
        load(folder).preflight()
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("turn", [5, 6, 7, 8])
def test_exif_is_named_where_it_is_the_cause(coco_folder, turn):
    folder = coco_folder([(40, 30)], [BOX])
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.new("RGB", (30, 40)).save(folder / "images" / "0.jpg", exif=exif)
    with pytest.raises(
        InputError, match=rf"is 40 x 30 pixels, but .* has width 30 and height 40; .*orientation {turn}"
    ):
        load(folder)[0]
    Image.new("RGB", (40, 30)).save(folder / "images" / "0.jpg")
    with pytest.raises(InputError, match="boxes would be misplaced"):
        load(folder)[0]


def test_preflight_decodes_no_more_than_asked_but_looks_at_every_file(coco_folder, monkeypatch):
    folder = coco_folder([(100, 100)] * 20, [BOX])
    dataset = load(folder)
    decoded = []
    monkeypatch.setattr(CocoDetection, "_read", lambda self, index: decoded.append(index))
    dataset.preflight(decode_megapixels=0.05)
    assert sorted(decoded) == [0, 4, 8, 12, 16]
    (folder / "images" / "7.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"7\.jpg: image 107 of .* has zero bytes"):
        dataset.preflight(decode_megapixels=0.05)


def test_reading_a_large_json_is_quick_enough_to_be_done_at_each_start(tmp_path):
    """As many annotations as a tenth of COCO; what matters is that nothing is quadratic."""
    rng = np.random.default_rng(0)
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 480, "width": 640} for i in rng.permutation(12_000).tolist()]
    annotations = [
        {"id": i, "image_id": i % 12_000, "category_id": i % 80, "bbox": [1.5, 2.5, 30, 40], "iscrowd": 0}
        for i in range(86_000)
    ]
    categories = [{"id": i, "name": str(i)} for i in range(80)]
    (tmp_path / "images").mkdir()
    (tmp_path / "instances.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    dataset = load(tmp_path)
    assert len(dataset) == 12_000
    rows = slice(dataset._first[5], dataset._first[5] + dataset._counts[5])
    assert dataset._labels[rows].tolist() == [i % 80 for i in range(images[5]["id"], 86_000, 12_000)]
