"""Every command has quick help and a place in README.md."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import labelkit.commands.app
import trainer.commands.app

REPOSITORY = Path(__file__).parents[3]
APPS = {"labelkit": labelkit.commands.app.app, "trainer": trainer.commands.app.app}
NAMES = ("openai-batch: ", "ray: ", "sentence-transformers ", "vllm: ")
"""Beginnings of help texts that are names, which are written in lower case."""


def commands(app: typer.Typer) -> list[str]:
    group: Any = typer.main.get_command(app)
    return sorted(group.commands)


COMMANDS = [(program, name) for program, app in APPS.items() for name in commands(app)]


# What one of them takes to import is most of the half second that a user waits for help without complaint.
SLOW = {"aiohttp", "datasets", "duckdb", "numpy", "openai", "pyarrow", "pydantic", "ray", "sentence_transformers"}
SLOW |= {"sklearn", "torch", "transformers", "vllm"}


def imported(*command: str) -> set[str]:
    """Top-level packages that a Python script imports on its way, by the interpreter's own account."""
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", *command], cwd=REPOSITORY, check=True, capture_output=True, text=True
    )
    names = (line.rpartition("|")[2].strip() for line in shown.stderr.splitlines() if line.startswith("import time:"))
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize(("program", "command"), [*COMMANDS, ("labelkit", ""), ("trainer", "")])
def test_help_imports_nothing_slow(program, command):
    script = Path(sys.executable).with_name(program)
    found = imported(str(script), *filter(None, [command]), "--help")
    assert {program, "typer"} <= found
    assert found & SLOW == set()


@pytest.mark.parametrize("program", APPS)
def test_the_list_of_commands_shows_whole_sentences(program):
    shown = CliRunner().invoke(APPS[program], ["--help"], terminal_width=80).output
    assert shown.count("...") == shown.count("[ARGS]...")
    assert [name for name in commands(APPS[program]) if f"\n  {name} " not in shown] == []


@pytest.mark.parametrize(("program", "command"), COMMANDS)
def test_every_parameter_is_explained_without_values_of_python(program, command):
    group: Any = typer.main.get_command(APPS[program])
    for parameter in group.commands[command].params:
        words = getattr(parameter, "help", None) or ""
        assert re.match("[A-Z]", words) or words.startswith(NAMES), parameter.name
        assert words.endswith((".", "…")), parameter.name
        assert not re.search(r"[{}]|\('|Path\(|None\b", words), words
        assert len(re.findall("default:", words, re.IGNORECASE)) <= 1, words


@pytest.mark.parametrize(("program", "command"), COMMANDS)
def test_the_readme_mentions_every_command(program, command):
    assert f"{program} {command}" in (REPOSITORY / "README.md").read_text(encoding="utf-8")
