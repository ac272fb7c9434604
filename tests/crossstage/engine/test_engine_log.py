"""The same lines on the terminal and in log.txt, each in one piece."""

import logging
from pathlib import Path

import pytest
from rich.console import Console

from crossstage.engine.log import RunLog

LONG = "[bold]not markup[/bold] :smile: 1.5 " + "word " * 60


def lines(text: str) -> list[str]:
    """Without the time in front."""
    return [line.split("] ", 1)[1].rstrip() for line in text.splitlines()]


@pytest.mark.parametrize("name", ["crossstage", "csla", "dca", "crossstage.projects.dino"])
def test_every_logger_of_ours_is_heard_whole_and_afterwards_as_before(name: str, tmp_path: Path, capsys):
    logger = logging.getLogger(name)
    before = logger.getEffectiveLevel()
    with RunLog() as log:
        logger.info(LONG)
        log.open_file(tmp_path / "log.txt")
        logger.warning("later")
    expected = [LONG.rstrip(), "later"]
    assert lines(capsys.readouterr().out) == expected
    assert lines((tmp_path / "log.txt").read_text()) == expected
    assert logger.getEffectiveLevel() == before and not logging.getLogger("crossstage").handlers


def test_the_processes_beside_the_first_tell_errors_alone(capsys):
    with RunLog(quiet=True):
        logging.getLogger("csla").warning("a warning")
        logging.getLogger("csla").error("an error")
    assert lines(capsys.readouterr().out) == ["an error"]


@pytest.mark.parametrize(("is_terminal", "expected"), [(True, ["evaluated"]), (False, ["iter: 3", "evaluated"])])
def test_what_the_progress_bar_shows_is_left_out_on_a_terminal(
    is_terminal: bool, expected: list[str], tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.setattr(Console, "is_terminal", is_terminal)
    with RunLog() as log:
        log.open_file(tmp_path / "log.txt")
        logging.getLogger("crossstage.engine").info("iter: 3", extra={"on_bar": True})
        logging.getLogger("crossstage.engine").info("evaluated")
    assert lines(capsys.readouterr().out) == expected
    assert lines((tmp_path / "log.txt").read_text()) == ["iter: 3", "evaluated"]
