"""Progress of the stages of a pool: a line every half minute in a log, a bar on a terminal."""

import io
import logging
import sys

import pytest

from labelkit.commands.progress import StageBar
from labelkit.pooling.stages import LoggedStages, Stage


@pytest.fixture
def clock(monkeypatch):
    """The time in seconds, which the test sets."""
    now = [0.0]
    monkeypatch.setattr("labelkit.pooling.stages.time.monotonic", lambda: now[0])
    return now


def terminal(monkeypatch):
    """Put a terminal in the place of standard error; a fixture would do it before pytest captures the test."""

    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown = Screen()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("TERM", "xterm")
    return shown


def test_a_line_is_logged_every_half_minute_and_at_the_end(clock, caplog):
    caplog.set_level(logging.INFO)
    shown = LoggedStages()
    for seconds in range(0, 100, 10):
        clock[0] = float(seconds)
        shown(Stage("encode", 20 * seconds, 1_980, items="texts"))
    clock[0] = 99.0
    shown(Stage("encode", 1_980, 1_980, items="texts"))
    assert [record.message for record in caplog.records] == [
        "encode: 600/1,980 texts, 20 a second",
        "encode: 1,200/1,980 texts, 20 a second",
        "encode: 1,800/1,980 texts, 20 a second",
        "encode: 1,980/1,980 texts, 20 a second",
    ]


def test_a_short_stage_is_not_logged_and_the_next_one_has_its_own_rate(clock, caplog):
    caplog.set_level(logging.INFO)
    shown = LoggedStages()
    shown(Stage("read", 5, 5, items="passages"))
    clock[0] = 40.0
    shown(Stage("search", 10, None, items="queries"))
    clock[0] = 80.0
    shown(Stage("search", 50, None, items="queries"))
    assert [record.message for record in caplog.records] == ["search: 50 queries, 1 a second"]


def test_a_stage_that_begins_again_has_its_own_rate(clock, caplog):
    caplog.set_level(logging.INFO)
    shown = LoggedStages()
    for seconds, done in ((0.0, 9), (50.0, 3), (90.0, 43)):
        clock[0] = seconds
        shown(Stage("search", done, None, items="queries"))
    assert [record.message for record in caplog.records] == ["search: 43 queries, 1 a second"]


def test_stages_that_take_turns_are_both_logged(clock, caplog):
    caplog.set_level(logging.INFO)
    shown = LoggedStages()
    for seconds in range(0, 50, 10):
        clock[0] = float(seconds)
        shown(Stage("search", 40 * seconds, 4_000, items="queries"))
        shown(Stage("pool", 30 * seconds, 4_000, items="queries"))
    assert [record.message for record in caplog.records] == [
        "search: 1,200/4,000 queries, 40 a second",
        "pool: 900/4,000 queries, 30 a second",
    ]


def test_off_a_terminal_the_command_logs(clock, caplog):
    caplog.set_level(logging.INFO)
    shown = StageBar()
    for seconds in (0.0, 31.0):
        clock[0] = seconds
        shown(Stage("read", int(seconds), None, items="passages"))
    assert [record.message for record in caplog.records] == ["read: 31 passages, 1 a second"]


def test_a_terminal_shows_a_bar_per_stage(monkeypatch):
    screen = terminal(monkeypatch)
    shown = StageBar()
    for stage in (Stage("read", 7, None, items="passages"), Stage("search", 2, 4, items="queries")):
        shown(stage)
    shown(Stage("search", 4, 4, items="queries"))
    assert "search" in screen.getvalue()
    assert "4/4" in screen.getvalue()


def test_stages_that_take_turns_keep_their_bars_on_a_terminal(monkeypatch):
    screen = terminal(monkeypatch)
    shown = StageBar()
    shown(Stage("read", 7, None, items="passages"))
    for done in (1, 2):
        shown(Stage("search", done, 2, items="queries"))
        shown(Stage("pool", done, 2, items="candidates"))
    last = screen.getvalue().rsplit("1/2", 1)[1]
    assert "pool" in last
    assert "read" not in last
