"""A file is replaced as a whole or stays what it was, and nothing else is left in its folder."""

from pathlib import Path

import pytest

from crossstage.files import remove_leftovers, replacing, write_bytes, write_text


def test_text_and_bytes_replace_what_was_there(tmp_path: Path):
    path = tmp_path / "a.txt"
    write_bytes(path, b"old")
    write_text(path, "größer\n")
    assert path.read_bytes() == "größer\n".encode()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("x"), OSError(28, "No space left on device")])
def test_whatever_interrupts_the_writing_leaves_the_old_content_alone(error: BaseException, tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(type(error)), replacing(path) as temporary:
        temporary.write_text("ne")
        assert path.read_text() == "old"
        raise error
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_an_error_names_the_file_and_not_the_hidden_one(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"absent/a\.txt'$") as caught:
        write_text(tmp_path / "absent/a.txt", "")
    assert caught.value.filename == str(tmp_path / "absent/a.txt")


def test_an_error_without_a_number_keeps_its_words(tmp_path: Path):
    with pytest.raises(OSError, match="cannot write mode P"), replacing(tmp_path / "a.png"):
        raise OSError("cannot write mode P as PNG")


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path: Path):
    for name in (".model_final.pth.17.tmp", ".hidden", "a.tmp"):
        (tmp_path / name).write_text("")
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "a.tmp"]
