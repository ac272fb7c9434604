import numpy as np
import pytest
import torch
from PIL import Image, ImageChops

from crossstage import fonts, visualize
from crossstage.structures import Detections, Target
from crossstage.visualize import (
    Box,
    class_colour,
    contact_sheet,
    draw_boxes,
    draw_detections,
    draw_targets,
    side_by_side,
    with_caption,
)

NAMES = ["cat", "dog"]


def blank(width=600, height=480, mode="RGB"):
    return Image.new("L", (width, height), 90).convert(mode)


def count(picture, colour):
    return int((np.asarray(picture) == colour).all(axis=-1).sum())


def detections(*rows):
    boxes, scores, labels = zip(*rows, strict=True) if rows else ([], [], [])
    return Detections(torch.tensor(boxes).reshape(-1, 4), torch.tensor(scores), torch.tensor(labels, dtype=torch.int64))


@pytest.mark.parametrize(
    ("text", "shown"),
    [("Gr\u00f6\u00dfe 5", "Gr\u00f6\u00dfe 5"), ("\u4e09", "7"), ("5$ or $q", r"5\$ or \$q"), ("_other", " _other")],
)
def test_a_name_in_a_figure_is_neither_empty_boxes_nor_a_formula_nor_left_out_of_the_legend(text, shown):
    assert fonts.chart_text(text, otherwise="7") == shown


@pytest.fixture
def no_system_fonts(monkeypatch):
    from matplotlib import font_manager

    monkeypatch.setattr(font_manager, "findSystemFonts", list)
    for cached in (fonts.font_for, fonts._path_with):
        cached.cache_clear()
    yield
    for cached in (fonts.font_for, fonts._path_with):
        cached.cache_clear()


@pytest.mark.parametrize("text", ["cell", "célula", "клетка", "κύτταρο", "Zelle 90%", "", "two words"])
def test_letters_of_a_script_with_a_font_differ_from_the_sign_for_a_missing_one(no_system_fonts, text):
    font = fonts.font_for(text, 24)
    missing = bytes(font.getmask(fonts.NO_LETTER))
    assert all(bytes(font.getmask(letter)) != missing for letter in text)


@pytest.mark.parametrize("name", ["細胞", "हिन्दी", "cell 細"])
def test_a_name_without_a_font_is_drawn_as_the_number_of_its_class(no_system_fonts, name):
    assert fonts.font_for(name, 24) is None
    found = detections(([100.0, 120.0, 300.0, 260.0], 0.9, 1))
    drawn = draw_detections(blank(), found, ["x", name])
    assert drawn.tobytes() == draw_detections(blank(), found, ["x", "1"]).tobytes()
    assert drawn.tobytes() != draw_detections(blank(), found, ["x", "2"]).tobytes()
    with_caption(blank(), name)


def test_a_font_of_the_system_is_taken_where_it_has_the_letters(monkeypatch, tmp_path, no_system_fonts):
    from matplotlib import font_manager, get_data_path

    (tmp_path / "damaged.ttf").write_bytes(b"no font")
    symbols = f"{get_data_path()}/fonts/ttf/STIXNonUni.ttf"  # has letters of its own in a private area
    letter = "\ue001"
    assert fonts.font_for(letter, 16) is None
    fonts.font_for.cache_clear(), fonts._path_with.cache_clear()
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [symbols, str(tmp_path / "damaged.ttf")])
    assert fonts.font_for(letter, 16).path == symbols


def test_the_input_image_stays_as_it_is_and_the_result_is_rgb():
    for mode in ("RGB", "L", "RGBA", "P"):
        image = blank(mode=mode)
        before = image.copy()
        picture = draw_boxes(image, [Box((10, 50, 200, 200), 1, "dog")])
        assert picture.mode == "RGB" and picture.size == image.size
        assert image.tobytes() == before.tobytes()


def test_frame_lies_on_the_box_in_the_colour_of_its_class():
    picture = draw_detections(blank(), detections(([100.0, 120.0, 300.0, 260.0], 0.9, 1)), NAMES)
    for point in ((100, 200), (300, 200), (200, 120), (200, 260)):
        assert picture.getpixel(point) == class_colour(1), point
    assert picture.getpixel((200, 200)) == (90, 90, 90)


def test_threshold_is_inclusive_and_hides_the_rest():
    box = [100.0, 120.0, 300.0, 260.0]
    nothing = draw_detections(blank(), detections((box, 0.49, 0)), NAMES, threshold=0.5)
    assert ImageChops.difference(nothing, blank()).getbbox() is None
    just = draw_detections(blank(), detections((box, 0.5, 0)), NAMES, threshold=0.5)
    assert count(just, class_colour(0)) > 0


def test_the_best_detection_lies_on_top_whatever_the_order():
    first, second = ([100.0, 120.0, 300.0, 260.0], 0.9, 0), ([100.0, 120.0, 300.0, 260.0], 0.4, 1)
    for rows in ((first, second), (second, first)):
        assert draw_detections(blank(), detections(*rows), NAMES).getpixel((100, 200)) == class_colour(0)


def test_small_images_are_enlarged_with_their_boxes():
    picture = draw_detections(blank(128, 96), detections(([32.0, 24.0, 96.0, 72.0], 0.9, 0)), NAMES)
    assert picture.size == (512, 384)
    assert picture.getpixel((128, 200)) == class_colour(0) and picture.getpixel((256, 288)) == class_colour(0)


def test_targets_are_normalised_boxes_of_the_image():
    target = Target(labels=torch.tensor([1]), boxes=torch.tensor([[0.5, 0.5, 0.5, 0.25]]))
    picture = draw_targets(blank(400, 800), target, NAMES)
    for point in ((100, 400), (300, 400), (200, 300), (200, 500)):
        assert picture.getpixel(point) == class_colour(1), point


@pytest.mark.parametrize("corner", [(0, 0), (400, 0), (0, 330), (400, 330)])
def test_a_label_is_whole_wherever_its_box_lies(corner):
    """A cut-off label would have fewer coloured pixels than that of a box in the middle."""

    def coloured(x, y):
        return count(draw_boxes(blank(), [Box((x, y, x + 199, y + 149), 3, "a long name")]), class_colour(3))

    assert coloured(*corner) == pytest.approx(coloured(200, 160), rel=0.1)


@pytest.mark.parametrize(("box", "number"), [((200, 160, 400, 300), 4), ((200, 160, 230, 300), 6)])
def test_labels_of_equal_boxes_do_not_cover_each_other(box, number):
    """Detections of the same place, as wide as several tags or narrower than one: each text is as visible as alone."""
    crowded = draw_boxes(blank(), [Box(box, label, "name") for label in range(number)])
    for label in range(number - 1):  # of these only the labels can be seen, not the frames
        picture = draw_boxes(blank(), [Box(box, label, "name"), Box(box, 9, "")])
        alone = count(picture, class_colour(label))
        assert alone > 200 and count(crowded, class_colour(label)) == pytest.approx(alone, rel=0.2), label


@pytest.mark.parametrize(
    ("corners", "text"),
    [
        ((50, 50, 50, 50), "no area"),
        ((-300, -200, 2000, 900), "larger than the picture"),
        ((700, 500, 900, 600), "outside"),
        ((300, 300, 100, 100), "inverted"),
        ((10, 10, 90, 90), "x" * 300),
        ((10, 10, 90, 90), ""),
        ((10, 10, 90, 90), "größe 猫"),
    ],
)
def test_odd_boxes_and_texts_are_drawn_all_the_same(corners, text):
    picture = draw_boxes(blank(), [Box(corners, 0, text)])
    assert picture.size == (600, 480) and count(picture, class_colour(0)) > 0


def test_a_class_without_a_name_shows_its_number():
    assert visualize.class_name(1, NAMES) == "dog"
    assert visualize.class_name(2, NAMES) == "2" and visualize.class_name(-1, NAMES) == "-1"
    draw_detections(blank(), detections(([10.0, 10.0, 90.0, 90.0], 0.9, 7)), [])


def test_colours_are_stable_and_distinct():
    colours = [class_colour(label) for label in range(80)]
    assert colours[:2] == [(255, 38, 38), (128, 255, 165)]
    assert len(set(colours)) == 80
    for label in range(80):
        difference = sum(abs(a - b) for a, b in zip(class_colour(label), class_colour(label + 1), strict=True))
        assert difference > 100, f"classes {label} and {label + 1} look alike"


def test_letters_can_be_read_on_every_class_colour():
    """WCAG asks for a contrast of 4.5."""

    def luminance(colour):
        linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for label in range(80):
        picture = draw_boxes(blank(), [Box((200, 160, 400, 300), label, "MMMM")])
        tag = picture.crop((203, 142, 240, 157))
        ground = class_colour(label)
        white, black = count(tag, (255, 255, 255)), count(tag, (0, 0, 0))
        ink = 1.0 if white > black else 0.0
        assert max(white, black) > 20, "no letters found"
        bright, dark = sorted((luminance(ground), ink), reverse=True)
        assert (bright + 0.05) / (dark + 0.05) > 4.5, (label, ground)


def test_side_by_side_keeps_both_pictures():
    left, right = Image.new("RGB", (100, 80), (255, 0, 0)), Image.new("RGB", (60, 90), (0, 255, 0))
    picture = side_by_side(left, right, gap=6)
    assert picture.size == (166, 90)
    assert count(picture, (255, 0, 0)) == 8000 and count(picture, (0, 255, 0)) == 5400


def test_a_caption_is_above_and_fits():
    picture = with_caption(Image.new("RGB", (200, 100), (255, 0, 0)), "a name that is far too long for it" * 3)
    assert picture.width == 200 and picture.height > 100
    assert count(picture, (255, 0, 0)) == 20000
    right_edge = picture.crop((197, 0, 200, picture.height - 100))
    assert right_edge.getcolors() == [(3 * (picture.height - 100), (255, 255, 255))]


@pytest.mark.parametrize("number", [1, 2, 5, 12])
def test_contact_sheet_shows_every_picture_once(number):
    pictures = [Image.new("RGB", (40 + n, 60 - n), (n, 200, 50)) for n in range(number)]
    sheet = contact_sheet(pictures)
    for n, picture in enumerate(pictures):
        assert count(sheet, (n, 200, 50)) == picture.width * picture.height


def test_contact_sheet_shrinks_large_pictures_and_needs_one():
    sheet = contact_sheet([blank(3000, 2000)] * 7, columns=3, cell=300)
    assert sheet.size == (3 * 300 + 4 * 10, 3 * 200 + 4 * 10)
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([])
