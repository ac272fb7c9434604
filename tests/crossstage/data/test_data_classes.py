"""Classes are matched by name: another order and missing ones are said, names that do not fit are an error."""

import numpy as np
import pytest

from crossstage.data.classes import differences, with_classes
from crossstage.data.coco_json import CocoContents, read_class_names, read_coco
from crossstage.errors import InputError

BOX = [1, 2, 10, 20]


@pytest.fixture
def contents_of(coco_folder):
    """A file with these names under the category ids 1, 2, ..., and one object of each name among `objects`."""

    def write(names: list[str], objects: list[str]) -> CocoContents:
        def edit(content):
            content["categories"] = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]

        annotations = [{"image_id": 100, "bbox": BOX, "category_id": names.index(name) + 1} for name in objects]
        return read_coco(coco_folder([(40, 30)], annotations, edit) / "instances.json")

    return write


FITTING = {
    "the same": (["a", "b", "c"], ["c", "a"], [2, 0], [1, 2, 3], ""),
    "another order": (["c", "a", "b"], ["c", "a"], [2, 0], [2, 3, 1], "in another order than training"),
    "fewer": (["a", "c"], ["c", "a"], [2, 0], [1, None, 2], "lists 2 of 3 classes, matched by name; without b"),
    "fewer in another order": (["c", "a"], ["c", "a"], [2, 0], [2, None, 1], "in another order"),
    "a further one without objects": (["all", "a", "b", "c"], ["c", "a"], [2, 0], [2, 3, 4], "without objects"),
    "an accent of its own": (["e\u0301", "a"], ["e\u0301"], [3], [2, None, None, 1], "in another order"),
    "only one": (["b"], ["b"], [1], [None, 1, None], "lists 1 of 3 classes"),
}


@pytest.mark.parametrize("case", FITTING)
def test_labels_are_those_of_the_training_and_what_differs_is_said(contents_of, case):
    names, objects, labels, ids, expected = FITTING[case]
    as_written = contents_of(names, objects)
    training = ["a", "b", "c", "\u00e9"][: len(ids)]  # the last one is a letter with its accent
    contents = with_classes(as_written, training)
    assert contents.labels.tolist() == labels and contents.category_ids == ids
    assert contents.class_names == training
    said = "; ".join(differences(as_written, training))
    assert expected in said and bool(said) == bool(expected)


WRONG = {
    "another spelling": (["A", "b"], ["A"], "has 1 objects of classes that training does not have: 'A' (near: a)"),
    "a space": (["a ", "b"], ["a ", "b"], "'a ' (near: a)"),
    "a further one with objects": (["a", "b", "c", "d"], ["a", "d", "d"], "has 2 objects of classes that training"),
    "all others": (["x", "y"], [], "has none of the classes of training (a, b, c); it lists x, y"),
    "numbers instead of names": (["0", "1", "2"], ["1"], "'1' (near: none)"),
    "a name twice": (["a", "a"], ["a"], "has a more than once; expected different names"),
}


@pytest.mark.parametrize("case", WRONG)
def test_names_that_do_not_fit_are_one_line(contents_of, case):
    names, objects, message = WRONG[case]
    contents = contents_of(names, objects)
    with pytest.raises(InputError) as caught:
        with_classes(contents, ["a", "b", "c"])
    assert message in str(caught.value) and contents.json_file in str(caught.value) and "\n" not in str(caught.value)


def test_the_same_list_needs_no_different_names(contents_of):
    """Roboflow writes the name of the project as a category too, sometimes the name of a class."""
    contents = contents_of(["cell", "cell"], ["cell"])
    assert with_classes(contents, ["cell", "cell"]) is contents
    assert with_classes(contents, None) is contents


def test_names_alone_are_in_the_order_of_ids(contents_of, tmp_path):
    contents = contents_of(["b", "a"], ["a"])
    assert read_class_names(tmp_path / "instances.json") == contents.class_names == ["b", "a"]
    assert np.array_equal(contents.labels, [1])
