"""Every number that a command takes is checked: NaN, infinity and negative or absurd values are one line."""

import sys

import pytest

from labelkit.commands import app as labelkit_app
from labelkit.commands.console import command_of
from trainer.commands import app as trainer_app

APPS = {"labelkit": labelkit_app, "trainer": trainer_app}
NEGATIVE = {"--false-negative-margin"}
"""Options that may be below 0."""


def numbers():
    """(program, command, option, kind) of every option that takes a number."""
    for program, module in APPS.items():
        group = command_of(module.app)
        for name, command in group.commands.items():
            for parameter in command.params:
                kind = {"integer": "int"}.get(found := parameter.type.name.split()[0], found)
                if kind in ("float", "int"):
                    yield program, name, max(parameter.opts, key=len), kind


NUMBERS = list(numbers())


@pytest.fixture
def refused(monkeypatch, capsys, tmp_path):
    """Call a command with an option's value and all that it needs beside; its one line on standard error."""
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("trainer.commands.training.check_input", lambda dataset: None)  # it comes before the settings

    def call(program, name, option, value):
        group = command_of(APPS[program].app)
        command = group.commands[name]
        needed = [f"{max(p.opts, key=len)}=1" for p in command.params if p.required and p.opts[0].startswith("-")]
        given = [one for one in needed if not one.startswith(f"{option}=")]
        arguments = ["x" for p in command.params if p.required and not p.opts[0].startswith("-")]
        settings = ["--model=m", "--objective=lsepair"] if name in ("fit", "suspects") else []
        settings = ["--model=m"] if name == "bakeoff" else settings
        monkeypatch.setattr(sys, "argv", [program, name, *given, *settings, f"{option}={value}", *arguments])
        with pytest.raises(SystemExit) as stop:
            APPS[program].main()
        out, err = capsys.readouterr()
        assert stop.value.code == 2, err
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1, err
        assert list(tmp_path.iterdir()) == []
        return err

    return call


def test_there_are_numbers_to_check():
    assert {kind for *_, kind in NUMBERS} == {"float", "int"}
    assert ("labelkit", "annotate", "--max-usd", "float") in NUMBERS
    assert ("trainer", "fit", "--learning-rate", "float") in NUMBERS
    assert len(NUMBERS) > 50


@pytest.mark.parametrize(("program", "name", "option", "kind"), NUMBERS, ids=lambda value: value)
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1", "1" + "0" * 30, "many"])
def test_a_number_that_cannot_be_is_one_line(refused, program, name, option, kind, value):
    if value == "-1" and option in NEGATIVE:
        pytest.skip("may be negative")
    said = refused(program, name, option, value)
    assert option in said or option.lstrip("-").replace("-", "_") in said
